"""The report as one HTML page that needs nothing but itself."""

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from dasrec.cli.report import plots, tables
from dasrec.cli.report.charts import marker
from dasrec.cli.report.document import Document
from dasrec.cli.report.words import (
    duration,
    metric_label,
    p_text,
    protocol_sentence,
    verdict,
)
from dasrec.eval.tables import number
from dasrec.tokenizer.report.markdown import number as four_digits


def render_page(doc: Document) -> str:
    """The page; every text that comes from data is escaped."""
    here = files("dasrec.cli.report")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals |= {
        "number": number,
        "four": four_digits,
        "metric_label": metric_label,
        "p_text": p_text,
        "verdict": verdict,
        "duration": duration,
        "marker": marker,
        "numbered": lambda names: {name: number for number, name in enumerate(names)},
    }
    training = plots.training(doc)
    groups = tables.groups(doc)
    return environment.from_string((here / "page.html").read_text("utf-8")).render(
        doc=doc,
        style=Markup((here / "page.css").read_text("utf-8")),
        script=Markup((here / "page.js").read_text("utf-8")),
        sentence=protocol_sentence(len(doc.runs), doc.differing),
        choice=tables.choice(doc),
        data_lines=tables.data_lines(doc),
        tiles=tables.tiles(doc),
        parts=_parts(doc, bool(training)),
        groups=groups,
        compared=[group for group in groups if group.reference],
        headline=plots.headline,
        others=tables.others(doc),
        slices=plots.slices,
        slice_table=tables.slices,
        sid_summary=tables.sid_summary(doc),
        sid_rows=tables.sid_rows(doc),
        sid_series=plots.sid_series(doc),
        hierarchy=plots.hierarchy(doc),
        usage=plots.usage(doc),
        training=training,
        ranking=plots.ranking(doc),
        examples_by=tables.deciding(doc),
        protocol=tables.protocol(doc),
        lists_table=tables.lists(doc),
        seconds=tables.seconds(doc),
    )


def _parts(doc: Document, has_training: bool) -> Sequence[tuple[str, str]]:
    """(id, title) of the sections that the page has."""
    given: dict[tuple[str, str], Any] = {
        ("accuracy", "Accuracy"): doc.systems,
        ("slices", "Slices"): doc.systems and doc.slices,
        ("sids", "Semantic IDs"): doc.sids,
        ("training", "Training"): has_training,
        ("ranking", "Ranking"): doc.ranking,
        ("examples", "Examples"): doc.examples,
        ("provenance", "Protocol"): True,
    }
    return [part for part, there in given.items() if there]
