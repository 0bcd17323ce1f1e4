"""Figures that outlive a run: one line of JSON each, and the Markdown made from the lines.

`docs/results/<topic>.jsonl` (metrics of methods) and `docs/results/comparisons/<topic>.jsonl`
(methods against each other) are appended to by the commands that measured, never edited by hand.
Only `docs/results/published.jsonl` is written by hand: what others report.
"""

import json
import os
import shlex
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TypeVar

from dasrec.core.artifacts import code_version
from dasrec.core.config import build_config
from dasrec.eval.published import PublishedLine
from dasrec.eval.report import load_report
from dasrec.eval.report_intervals import report_intervals
from dasrec.eval.result_line import PUBLISHED, ComparisonLine, ResultLine
from dasrec.eval.results_markdown import results_markdown

COMPARISONS = "comparisons"

__all__ = [
    "ComparisonLine",
    "PublishedLine",
    "ResultLine",
    "append_comparisons",
    "append_results",
    "hardware",
    "read_comparisons",
    "read_published",
    "read_results",
    "results_of_report",
    "results_table",
    "typed",
]

Line = TypeVar("Line", ResultLine, ComparisonLine, PublishedLine)


def append_results(folder: str | Path, *lines: ResultLine) -> None:
    """Append lines to `<folder>/<topic>.jsonl`, making the folder and the file where needed."""
    _append(Path(folder), lines)


def append_comparisons(folder: str | Path, *lines: ComparisonLine) -> None:
    """Append lines to `<folder>/comparisons/<topic>.jsonl`, making it where needed."""
    _append(Path(folder) / COMPARISONS, lines)


def _append(folder: Path, lines: Sequence[ResultLine] | Sequence[ComparisonLine]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for line in lines:
        with (folder / f"{line.topic}.jsonl").open("a") as file:
            file.write(json.dumps(line.as_json()) + "\n")


def read_results(folder: str | Path) -> list[ResultLine]:
    """All lines of all topics of a folder, in the order of file name and line.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: a line that is not of the format; the message names file, line and field.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such results folder")
    measured = (path for path in folder.glob("*.jsonl") if path.stem != PUBLISHED)
    return _read(measured, ResultLine)


def read_comparisons(folder: str | Path) -> list[ComparisonLine]:
    """All comparisons of a folder; none is no fault.

    Raises:
        ValueError: see `read_results`.
    """
    return _read((Path(folder) / COMPARISONS).glob("*.jsonl"), ComparisonLine)


def read_published(folder: str | Path) -> list[PublishedLine]:
    """What others report; no file is no fault.

    Raises:
        ValueError: see `read_results`.
    """
    return _read(Path(folder).glob(f"{PUBLISHED}.jsonl"), PublishedLine)


def _read(paths: Iterable[Path], kind: type[Line]) -> list[Line]:
    lines = []
    for path in sorted(paths):
        for index, text in enumerate(path.read_text().splitlines(), start=1):
            where = f"{path}:{index}"
            try:
                document = json.loads(text)
            except json.JSONDecodeError as error:
                raise ValueError(f"{where}: not JSON ({error})") from None
            line = build_config(kind, document, where)
            if line.topic != path.stem:
                raise ValueError(f"{where}: topic '{line.topic}' belongs in {line.topic}.jsonl")
            lines.append(line)
    return lines


def results_table(folder: str | Path) -> str:
    """The Markdown of all lines of a folder: what docs/results.md holds.

    Per topic, dataset and protocol: tables of methods by metrics for test, the same for valid (see
    `dasrec.eval.results_tables`), and the paired comparisons; in the ladder what others report.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: a line that is not of the format; the message names file and line.
    """
    lines = read_results(folder)
    return results_markdown(lines, read_comparisons(folder), read_published(folder))


def results_of_report(
    report_path: str | Path,
    *,
    topic: str,
    dataset: str,
    protocol: str,
    command: str,
    config_sha256: str,
    data_sha256: str,
    seed: int,
    variant: str = "",
    seconds: Mapping[str, float] | None = None,
    more: Mapping[str, float] | None = None,
) -> list[ResultLine]:
    """One line per split of an eval_report artifact; slices become `metric[slice]`.

    Intervals over users come with it, see `dasrec.eval.report_intervals`.

    Args:
        report_path: the artifact; the method's name is in its manifest.
        topic: see `ResultLine`, as all arguments named like its fields.
        dataset: see `ResultLine`.
        protocol: see `ResultLine`.
        command: see `ResultLine`.
        config_sha256: see `ResultLine`.
        data_sha256: see `ResultLine`.
        seed: see `ResultLine`.
        variant: see `ResultLine`.
        seconds: see `ResultLine`.
        more: metrics that do not come from the report, e.g. {"collision_rate": 0.01}.
    """
    report = load_report(report_path)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return [
        ResultLine(
            topic=topic,
            dataset=dataset,
            protocol=protocol,
            method=report.method,
            variant=variant,
            seed=seed,
            split="test" if split == "test" else "valid",
            metrics=_flat(slices) | dict(more or {}),
            users=int(slices["all"]["users"]),
            seconds=dict(seconds or {}),
            intervals=report_intervals(report, split),
            hardware=hardware(),
            command=command,
            config_sha256=config_sha256,
            conditions={} if report.protocol is None else report.protocol.as_json(),
            data_sha256=data_sha256,
            code=code_version(),
            date=now,
        )
        for split, slices in report.splits.items()
    ]


def _flat(slices: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {
        name if part == "all" else f"{name}[{part}]": value
        for part, metrics in slices.items()
        for name, value in metrics.items()
        if not (part == "all" and name == "users")  # has its own field
    }


def typed(parts: Sequence[str]) -> str:
    """A command as it is recorded: whatever machine it ran on, its paths name no place there.

    Absolute paths become relative to the working directory; those outside it keep their last part.
    """
    here = Path.cwd()

    def portable(part: str) -> str:
        path = Path(part)
        if not path.is_absolute():
            return part
        inside = path.is_relative_to(here)
        return path.relative_to(here).as_posix() if inside else path.name

    return shlex.join(map(portable, parts))


@cache
def hardware() -> str:
    """Cores this process may use, memory, and the accelerators that nvidia-smi names.

    E.g. "2 CPU cores, 24 GiB" or "16 CPU cores, 128 GiB, NVIDIA H100 80GB HBM3".
    """
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    parts = [f"{cores} CPU cores", f"{round(gib)} GiB"]
    try:
        smi = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
        parts += [name.strip() for name in smi.stdout.splitlines() if name.strip()]
    except (OSError, subprocess.SubprocessError):
        pass  # no accelerator
    return ", ".join(parts)
