"""Constrained decoding against `generate`: right lists, time, memory, and how both grow.

    python -m benchmarks.decoding --data runs/beauty --generator runs/beauty/generators/das.full

Random Qwen3 models and catalogues; with --data also a trained generator. Rows that the results
already have, of the same code and sizes, are kept, so that a run that was stopped goes on.
--quick prints a small version of every table and writes nothing.
"""

import argparse
import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from benchmarks import decoding_items, decoding_plots, decoding_report, decoding_sections
from benchmarks.decoding_measure import STATISTIC
from benchmarks.decoding_peers import PEERS
from benchmarks.decoding_plan import QUICK, Plan, Section, Task
from benchmarks.decoding_trained import trained

from dasrec.core.artifacts import code_version
from dasrec.eval.results import hardware, typed

log = logging.getLogger(__name__)

OUT = Path("benchmarks/results/decoding.json")
DOCUMENT = Path("docs/decoding.md")
SECTIONS: dict[str, Section] = {
    "checks": decoding_sections.checks,
    "main": decoding_sections.main,
    "growth": decoding_sections.growth,
    "items": decoding_items.items,
    "filters": decoding_items.filters,
    "latency": decoding_sections.latency,
    "memory": decoding_sections.memory,
}
MEASURED = (
    "generative/dasrec/generative/decoding/*.py",
    *(f"benchmarks/decoding_{part}.py" for part in ("checks", "items", "measure", "memory")),
    *(f"benchmarks/decoding_{part}.py" for part in ("peers", "sections", "trained", "world")),
)
"""What decides the figures."""


def sources() -> str:
    """Checksum of MEASURED and the libraries' versions."""
    root = Path(__file__).parent.parent
    digest = hashlib.sha256(f"{torch.__version__} {transformers.__version__}".encode())
    for pattern in MEASURED:
        for path in sorted(root.glob(pattern)):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


class Results:
    """The rows of the results file, written anew after each."""

    def __init__(self, path: Path | None) -> None:
        """Read what is there; None keeps the rows in memory only."""
        self._path = path
        self._sources = sources()
        self.document: dict[str, Any] = {"rows": []}
        if path is not None and path.exists():
            self.document = json.loads(path.read_text())

    def fill(self, section: Iterable[Task]) -> None:
        """Run a section's tasks whose rows are missing or of other code; drop rows of no task."""
        tasks = [(task, json.loads(json.dumps(task.case))) for task in section]
        cases = [case for _, case in tasks]
        old = [row for row in self.document["rows"] if row["section"] == tasks[0][0].section]
        rows = [row for row in self.document["rows"] if row not in old]
        kept = [row for row in old if row["case"] in cases]
        for task, case in tasks:
            same = [row for row in kept if row["case"] == case]
            if any(row["sources"] == self._sources for row in same):
                continue
            log.info("%s %s", task.section, json.dumps(case))
            began = time.perf_counter()
            measured = json.loads(json.dumps(task.run()))
            took = round(time.perf_counter() - began, 1)
            row = {"section": task.section, "case": case, **measured, "took_seconds": took}
            kept = [row for row in kept if row not in same] + [row | self._stamp()]
            kept.sort(key=lambda row: cases.index(row["case"]))
            self._write(rows + kept)

    def _stamp(self) -> dict[str, str]:
        return {
            "hardware": hardware(),
            "command": typed(["python", "-m", "benchmarks.decoding", *sys.argv[1:]]),
            "code": code_version(),
            "sources": self._sources,
        }

    def _write(self, rows: list[dict[str, Any]]) -> None:
        self.document = {
            "name": "decoding",
            **self._stamp(),
            "threads": 1,
            "statistic": STATISTIC,
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "peers": PEERS,
            "rows": rows,
        }
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            scratch = self._path.with_suffix(".part")
            scratch.write_text(json.dumps(self.document, indent=1) + "\n")
            os.replace(scratch, self._path)


def sections(args: argparse.Namespace) -> dict[str, Section]:
    """The sections asked for."""
    found = dict(SECTIONS)
    if args.data is not None:
        found["trained"] = partial(trained, run=args.data, generator=args.generator, sids=args.sids)
    unknown = set(args.only or ()) - {*SECTIONS, "trained"}
    if unknown:
        raise ValueError(
            f"--only: no section {sorted(unknown)}; there are {[*SECTIONS, 'trained']}"
        )
    if "trained" in (args.only or ()) and args.data is None:
        raise ValueError("--only trained: needs --data and --generator")
    return {name: task for name, task in found.items() if not args.only or name in args.only}


def main() -> None:
    """Measure, write the file, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--data", type=Path, help="run directory with corpus/ and sids/")
    parser.add_argument("--generator", type=Path, help="generator trained on it")
    parser.add_argument("--sids", default="das", help="which of its SIDs")
    parser.add_argument("--quick", action="store_true", help="small, printed only")
    parser.add_argument("--report", action="store_true", help="tables of what is there, no more")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--document", type=Path, default=DOCUMENT, help="takes the tables")
    args = parser.parse_args()
    if (args.data is None) != (args.generator is None):
        parser.error("--data and --generator: give both or neither")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    if args.report and not args.out.exists():
        parser.error(f"--report: no {args.out}; run the benchmark first")
    results = Results(None if args.quick else args.out)
    for section in () if args.report else sections(args).values():
        results.fill(section(QUICK if args.quick else Plan()))
    sys.stdout.write(decoding_report.markdown(results.document) + "\n")
    if not args.quick:
        plots = decoding_plots.draw(results.document, args.document.parent / "plots")
        decoding_report.insert(results.document, plots, args.document)


if __name__ == "__main__":
    main()
