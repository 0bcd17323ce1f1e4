"""Run directories as a report reads them: corpus, reports, and facts about both."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dasrec.cli.report.document import RunFacts
from dasrec.cli.sids import labels
from dasrec.core.artifacts import MANIFEST, load_manifest
from dasrec.eval.paired import EvaluatedRun, load_run
from dasrec.eval.protocol import NOT_COMPARED, Protocol, read_protocol

NO_VALUE = "-"


class NamedRun(NamedTuple):
    """A run directory and what the report calls it."""

    name: str
    run: EvaluatedRun

    @property
    def path(self) -> Path:
        """The run directory."""
        return self.run.path

    def artifacts(self, folder: str) -> list[Path]:
        """Finished artifacts of a folder, by name."""
        return sorted(p for p in (self.path / folder).glob("*") if (p / MANIFEST).exists())


def open_runs(paths: Sequence[Path], methods: Sequence[str] | None = None) -> list[NamedRun]:
    """Open run directories; each is called by the end of its path that tells it from the others.

    Args:
        paths: run directories.
        methods: keep only the reports of these; None = all.

    Raises:
        FileNotFoundError: a run without corpus.
        ValueError: one path twice, a report of another corpus, or a method that no run has.
    """
    known = sorted({report.name for path in paths for report in (path / "reports").glob("[!.]*")})
    for method in methods or ():
        if method not in known:
            there = f"there are {', '.join(known)}" if known else "no method was evaluated"
            raise ValueError(f"--method {method}: no such report in the runs; {there}")
    return [
        NamedRun(name, load_run(path, methods))
        for name, path in zip(labels(paths), paths, strict=True)
    ]


def run_facts(named: NamedRun) -> RunFacts:
    """What a run was made from, and its protocol."""
    corpus, results = named.run.corpus, _json(named.path / "results.json")
    manifest = corpus.manifest
    reports = named.run.reports.values()
    codes = dict.fromkeys([manifest.code, *(report.manifest.code for report in reports)])
    return RunFacts(
        name=named.name,
        dataset=str(results.get("dataset", "")),
        synthetic=bool(results.get("synthetic", False)),
        users=corpus.num_users,
        items=corpus.num_items,
        interactions=len(corpus.user_idx),
        protocol=_protocol(named),
        provenance={
            "seed": str(manifest.seed),
            "corpus": manifest.fingerprint,
            "hardware": str(results.get("hardware", NO_VALUE)),
            "code": ", ".join(code for code in codes if code) or NO_VALUE,
        },
        seconds={name: float(value) for name, value in _json(named.path / "seconds.json").items()},
    )


def differing(facts: Sequence[RunFacts]) -> dict[str, tuple[str, ...]]:
    """Parts of the protocol in which the runs differ."""
    parts = dict.fromkeys(part for run in facts for part in run.protocol)
    values = {part: tuple(run.protocol.get(part, NO_VALUE) for run in facts) for part in parts}
    return {part: found for part, found in values.items() if len(set(found)) > 1}


def _protocol(named: NamedRun) -> dict[str, str]:
    """Every field that has to agree, with the values of all methods of the run that have one.

    Where no method was evaluated, what the corpus tells.
    """
    found: dict[str, list[str]] = {}
    for protocol in _protocols(named):
        for field, value in protocol.as_json().items():
            if field not in NOT_COMPARED and value is not None:
                found.setdefault(field, []).append(_in_words(value))
    if not found:
        manifest = named.run.corpus.manifest
        found = {"data": [manifest.inputs.get("raw", NO_VALUE)]}
        found["split"] = [_in_words(manifest.config.get("split", {}))]
    return {
        field.replace("_", " "): "; ".join(dict.fromkeys(values)) for field, values in found.items()
    }


def _protocols(named: NamedRun) -> Iterator[Protocol]:
    """Of every report; read off the lists for one from before protocols were written."""
    for method, report in named.run.reports.items():
        lists = named.path / "recommendations" / method
        if report.protocol is not None:
            yield report.protocol
        elif (lists / MANIFEST).exists():
            yield read_protocol(named.run.corpus, load_manifest(lists, "recommendations"))


def _in_words(value: Any) -> str:
    """A value of the protocol on one line.

    >>> _in_words({"method": "leave_one_out", "test_from": None, "users": {"dim": 8}})
    'method leave_one_out, users (dim 8)'
    """
    if isinstance(value, Mapping):
        parts = {key: _in_words(each) for key, each in value.items() if each not in (None, {})}
        return ", ".join(
            f"{key} ({text})" if isinstance(value[key], Mapping) else f"{key} {text}"
            for key, text in parts.items()
        )
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _json(path: Path) -> dict[str, Any]:
    """A file that the run's last stage writes; empty where it has not."""
    if not path.exists():
        return {}
    values: dict[str, Any] = json.loads(path.read_text())
    return values
