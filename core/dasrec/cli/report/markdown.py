"""The report as Markdown: every table of the page, and the examples in short."""

from collections.abc import Iterator, Sequence

from dasrec.cli.report import tables
from dasrec.cli.report.document import Document, Estimate, Example, Shown
from dasrec.cli.report.words import metric_label, p_text, protocol_sentence, verdict
from dasrec.eval.tables import markdown_table, number
from dasrec.tokenizer.report.markdown import number as four_digits


def render_markdown(doc: Document) -> str:
    """The report for a reader of text."""
    parts = [f"# Report: {doc.title}"]
    if sentence := protocol_sentence(len(doc.runs), doc.differing):
        parts.append(sentence)
    if synthetic := [run.name for run in doc.runs if run.synthetic]:
        parts.append(f"All figures of {', '.join(synthetic)} are of synthetic data.")
    if doc.systems:
        parts += [*_accuracy(doc), *_slices(doc)]
    if doc.sids:
        summary = tables.sid_summary(doc)
        parts += ["## Semantic IDs", _table(summary.header, summary.rows)]
    if doc.ranking:
        parts.append("## Ranking")
        for one in doc.ranking:
            parts += [f"### {one.title}", _table(one.header, one.rows)]
    if doc.examples:
        parts += ["## Example users", *(text for one in doc.examples for text in _example(one))]
    return "\n\n".join([*parts, *_provenance(doc)]) + "\n"


def _accuracy(doc: Document) -> Iterator[str]:
    yield f"## Accuracy on {doc.split}"
    header = ["method", "queries", *map(metric_label, doc.metrics)]
    rows = [
        [s.label, str(s.queries), *(_estimate(s.estimates[metric]) for metric in doc.metrics)]
        for s in doc.systems
    ]
    yield "With 95% bootstrap intervals over users."
    yield markdown_table(header, rows)
    for group in tables.groups(doc):
        if group.reference:
            yield f"### Minus {group.reference}"
            header = ["method", "metric", "difference", "95% interval", "p", "p (Holm)", "verdict"]
            yield markdown_table(
                header,
                [
                    [
                        system.label,
                        metric_label(metric),
                        f"{d.difference:+.4f}",
                        f"{d.low:+.4f} to {d.high:+.4f}",
                        p_text(d.p_value),
                        p_text(d.p_holm),
                        verdict(d),
                    ]
                    for system in group.systems
                    for metric, d in system.differences.items()
                ],
                left=2,
            )
    if (others := tables.others(doc)) is not None:
        yield "### Beyond accuracy"
        header = ["method", *(meaning.label for meaning in others.meanings)]
        yield markdown_table(header, [[name, *map(four_digits, v)] for name, v in others.rows])


def _slices(doc: Document) -> Iterator[str]:
    for group in tables.groups(doc):
        found = tables.slices(doc, group)
        if found.rows:
            yield f"## {metric_label(doc.slice_metric)} by slice, {group.name}"
            yield _table(found.header, found.rows)


def _example(one: Example) -> Iterator[str]:
    yield f"### User {_plain(one.user_id)}: next item {one.kind}"
    for each in one.lists:
        place = "not in the list" if each.rank is None else f"at rank {each.rank}"
        yield f"{each.system}, {place}: {_named(each.target)}"
    past = "\n".join(f"* {_named(item)}" for item in one.history)
    yield f"History ({one.earlier} earlier events not shown):\n\n{past}"
    for each in one.lists:
        items = "\n".join(f"{rank}. {_named(item)}" for rank, item in enumerate(each.items, 1))
        yield f"Recommended by {each.system}:\n\n{items}"


def _named(item: Shown) -> str:
    sid = f" `{'-'.join(map(str, item.sid))}`" if item.sid else ""
    like = f", {item.shared} codes as {_plain(item.like)}" if item.shared else ""
    return f"{_plain(item.title)}{sid}{like}"


def _plain(text: str) -> str:
    """Text of data, with nothing that Markdown or HTML takes for its own."""
    escaped = "".join(f"\\{c}" if c in r"\`*_[]#|" else c for c in " ".join(text.split()))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _provenance(doc: Document) -> Iterator[str]:
    yield "## Protocol and provenance"
    rows = [[row.part, *row.values] for row in tables.protocol(doc)]
    yield markdown_table(["part", *(run.name for run in doc.runs)], rows, left=len(doc.runs) + 1)
    lists = tables.lists(doc)
    if lists.rows:
        yield _table(lists.header, lists.rows)
    for run in doc.runs:
        if run.seconds:
            rows = [[name, f"{value:.1f}"] for name, value in run.seconds.items()]
            yield markdown_table([f"artifact of {run.name}", "seconds"], rows)


def _estimate(value: Estimate) -> str:
    return f"{number(value.mean)} ({number(value.low)} to {number(value.high)})"


def _table(header: Sequence[str], rows: Sequence[Sequence[tables.Cell]]) -> str:
    text = [[cell if isinstance(cell, str) else number(cell) for cell in row] for row in rows]
    return markdown_table(list(header), text)
