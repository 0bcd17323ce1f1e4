"""The benchmark's part of docs/decoding.md, from benchmarks/results/decoding.json alone."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.decoding_cells import Row
from benchmarks.decoding_tables import PARTS

BEGIN, END = "<!-- benchmark: begin -->", "<!-- benchmark: end -->"


def markdown(document: Row) -> str:
    """All tables for which there are rows."""
    parts = [part for make in PARTS if (part := make(document))]
    commands = list(dict.fromkeys(f"`{row['command']}`" for row in document["rows"]))
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    told = (
        f"Measured with {', '.join(commands)} on {document['hardware']}, {versions}. Times are the"
        f" {document['statistic']}. Only ratios within a table carry over to other machines."
    )
    peers = "\n".join(f"* `{name}`: {text}" for name, text in document["peers"].items())
    return "\n\n".join([told, peers, *parts])


def insert(document: Row, plots: Sequence[Path], path: Path) -> None:
    """Put the tables and plots between the marks of a document, or at its end."""
    images = "\n\n".join(
        f"![{plot.stem.replace('_', ' ')}]({plot.relative_to(path.parent).as_posix()})"
        for plot in plots
    )
    section = f"{BEGIN}\n\n{markdown(document)}\n\n{images}\n\n{END}"
    text = path.read_text() if path.exists() else f"# Constrained decoding\n\n{BEGIN}{END}\n"
    if BEGIN not in text:
        text += f"\n## Measured\n\n{BEGIN}{END}\n"
    before, rest = text.split(BEGIN, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(before + section + rest.split(END, 1)[1])
