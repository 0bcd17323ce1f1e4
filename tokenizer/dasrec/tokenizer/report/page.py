"""The report as one HTML page that needs nothing but itself, and as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup, escape

from dasrec.core import Corpus, SemanticIds
from dasrec.tokenizer.report import glossary
from dasrec.tokenizer.report.charts import usage_chart
from dasrec.tokenizer.report.counts import code_counts, perplexity
from dasrec.tokenizer.report.maps import TITLE_LENGTH, map_data
from dasrec.tokenizer.report.markdown import number
from dasrec.tokenizer.report.tree import Texts, build_tree


@dataclass(frozen=True)
class Entry:
    """One set of SIDs of the comparison."""

    label: str
    sids: SemanticIds
    figures: Mapping[str, float]


def report_json(entries: Sequence[Entry], corpus: Corpus) -> dict[str, Any]:
    """The comparison as data: per tokenizer its figures and what it is."""
    return {
        "corpus": corpus.manifest.fingerprint,
        "num_items": corpus.num_items,
        "num_users": corpus.num_users,
        "tokenizers": {
            entry.label: {
                "fingerprint": entry.sids.fingerprint,
                "tokenizer": entry.sids.manifest.inputs.get("tokenizer"),
                "level_sizes": entry.sids.items.level_sizes,
                "learned_levels": len(entry.sids.items.codebooks),
                "config": entry.sids.manifest.config,
                "code": entry.sids.manifest.code,
                "figures": dict(entry.figures),
            }
            for entry in entries
        },
    }


def render_page(entries: Sequence[Entry], corpus: Corpus) -> str:
    """The comparison as a self-contained HTML page: tables, code usage, map, prefix trees."""
    texts = Texts.of(corpus)
    here = files("dasrec.tokenizer.report")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals["number"] = number
    page = environment.from_string((here / "page.html").read_text("utf-8"))
    # "<" as an escape: a title with "</script>" must not end the element
    data = json.dumps(map_data([entry.sids.items for entry in entries], texts))
    return page.render(
        entries=entries,
        corpus=corpus,
        sections=[(title, _lines(rows, entries)) for title, rows in _arranged(entries)],
        charts=_charts(entries),
        title_length=TITLE_LENGTH,
        trees=[build_tree(e.sids.items, texts, corpus.train_item_count) for e in entries],
        data=Markup(data.replace("<", "\\u003c")),
        style=Markup((here / "page.css").read_text("utf-8")),
        script=Markup((here / "page.js").read_text("utf-8")),
    )


def _arranged(entries: Sequence[Entry]) -> list[tuple[str, list[glossary.Row]]]:
    return list(glossary.arrange(dict.fromkeys(name for e in entries for name in e.figures)))


def _lines(
    rows: Sequence[glossary.Row], entries: Sequence[Entry]
) -> list[tuple[glossary.Row, list[tuple[float | None, bool]]]]:
    """Of every row the (value, whether it is the best of several) of each entry."""
    lines = []
    for row in rows:
        values = [entry.figures.get(row.name) for entry in entries]
        given = [value for value in values if value is not None]
        best = None
        if row.figure.better and len({number(value) for value in given}) > 1:
            best = number(max(given) if row.figure.better > 0 else min(given))
        lines.append((row, [(value, number(value) == best) for value in values]))
    return lines


def _charts(entries: Sequence[Entry]) -> list[list[tuple[str, Markup]]]:
    """Per level the (label, chart) of every entry that has the level, on one scale."""
    levels: list[list[tuple[str, Markup]]] = []
    counts = [code_counts(entry.sids.items) for entry in entries]
    for level in range(max(map(len, counts))):
        having = [(e, c[level]) for e, c in zip(entries, counts, strict=True) if level < len(c)]
        highest = max(int(count_K.max()) for _, count_K in having)
        charts = []
        for entry, count_K in having:
            summary = escape(
                f"{entry.label}, level {level + 1}: {(count_K > 0).sum()} of {len(count_K)} codes "
                f"in use, perplexity {perplexity(count_K):.4g}, at most {count_K.max()} items"
            )
            charts.append((entry.label, Markup(usage_chart(count_K, highest, summary))))
        levels.append(charts)
    return levels
