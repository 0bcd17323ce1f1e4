"""report.html, and beside it report.json and report.md."""

import json
import os
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path

from dasrec.cli.report.gather import report_document
from dasrec.cli.report.markdown import render_markdown
from dasrec.cli.report.page import render_page
from dasrec.core.corpus import Split


def write_report(
    paths: Sequence[Path],
    out: Path,
    *,
    split: Split = "test",
    methods: Sequence[str] | None = None,
    tokenizers: Collection[str] | None = None,
    baseline: str | None = None,
) -> list[Path]:
    """Write the page and the same figures as JSON and as Markdown; earlier files are replaced.

    Args:
        paths: run directories.
        out: the page, `.html`; the others differ from it in the suffix only.
        split: see `report_document`, as all arguments named like its own.
        methods: see there.
        tokenizers: see there.
        baseline: see there.

    Returns:
        The three files, the page first.

    Raises:
        ValueError: a wrong name of the page, and what `report_document` refuses. Nothing is
            written then.
    """
    if out.suffix != ".html":
        raise ValueError(f"report: --out must be a file that ends in .html, got {out}")
    doc = report_document(
        paths, split=split, methods=methods, tokenizers=tokenizers, baseline=baseline
    )
    texts = {
        ".html": render_page(doc),
        ".json": json.dumps(asdict(doc), indent=1, allow_nan=False) + "\n",
        ".md": render_markdown(doc),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    written = []
    for suffix, text in texts.items():
        path = out.with_suffix(suffix)
        scratch = path.with_name(f".{path.name}.{os.getpid()}")
        scratch.write_text(text, "utf-8")
        scratch.replace(path)
        written.append(path)
    return written


def default_out(paths: Sequence[Path]) -> Path:
    """Where the page about one run goes: into its directory.

    Raises:
        ValueError: several runs.
    """
    if len(paths) > 1:
        raise ValueError("report: say where the page about several runs goes: --out FILE.html")
    return paths[0] / "report.html"
