"""The decoding benchmark at sizes that take seconds: every section, resuming, tables and plot."""

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks import (
    decoding,
    decoding_checks,
    decoding_memory,
    decoding_peers,
    decoding_plots,
    decoding_report,
)
from benchmarks.decoding_measure import race, same_lists
from benchmarks.decoding_plan import QUICK, Plan, Task
from benchmarks.decoding_world import Case, random_codes

from dasrec.generative import constrained_beam_search

TINY = Case(
    codes=(16,) * 3, items=300, text_tokens=20, beams=5, history=30, batch=2, width=64, layers=1
)
PLAN = Plan(
    rounds=1,
    base=TINY,
    codes=(TINY.codes,),
    text_tokens=(20,),
    main_beams=(5,),
    beams=(8,),
    histories=(20,),
    batches=(1,),
    stock_batch=1,
    items=(100, 300),
    stock_items=0,
    requests=3,
    stock_requests=2,
    filters=dataclasses.replace(TINY, items=1_000),
    generated=200,
    tiny=dataclasses.replace(TINY, items=1_000, batch=10, beams=20),
    small=dataclasses.replace(TINY, items=50, beams=50),
)


@pytest.fixture(autouse=True)
def _two_threads() -> Any:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_every_section_runs_and_finds_the_lists_of_generate(tmp_path: Path) -> None:
    results = decoding.Results(tmp_path / "decoding.json")
    for name, section in decoding.SECTIONS.items():
        if name != "memory":  # starts processes
            results.fill(section(PLAN))
    rows = json.loads((tmp_path / "decoding.json").read_text())["rows"]
    assert {row["section"] for row in rows} == set(decoding.SECTIONS) - {"memory"}
    assert all(row["same_result"] for row in rows if "same_result" in row)
    assert sum("same_result" in row for row in rows) == 2 + 1 + 3
    race_row = next(row for row in rows if row["section"] == "main")
    assert race_row["ratio"]["nested"]["level"] == pytest.approx(
        race_row["peers"]["nested"]["cpu_seconds"] / race_row["ours"]["level"]["cpu_seconds"],
        abs=0.01,
    )

    plots = decoding_plots.draw(results.document, tmp_path / "plots")
    first = plots[0].read_bytes()
    assert decoding_plots.draw(results.document, tmp_path / "plots")[0].read_bytes() == first
    page = tmp_path / "decoding.md"
    page.write_text("# Decoding\n\nWords.\n")
    for _ in range(2):  # again in the same place
        decoding_report.insert(results.document, plots, page)
    text = page.read_text()
    assert text.startswith("# Decoding\n\nWords.\n")
    assert text.count("### Against `generate`") == 1
    assert "plots/decoding_growth.svg" in text


def test_a_row_is_kept_until_its_code_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def fill() -> None:
        def run() -> dict[str, Any]:
            calls.append(len(calls))
            return {"figure": len(calls)}

        decoding.Results(tmp_path / "d.json").fill([Task("main", {"beams": (1, 2)}, run)])

    fill()
    fill()
    assert len(calls) == 1
    monkeypatch.setattr(decoding, "sources", lambda: "other code")
    fill()
    fill()
    rows = json.loads((tmp_path / "d.json").read_text())["rows"]
    assert len(calls) == 2
    assert [row["figure"] for row in rows] == [2]
    other = Task("main", {"beams": 3}, lambda: {"figure": 3})
    decoding.Results(tmp_path / "d.json").fill([other])
    rows = json.loads((tmp_path / "d.json").read_text())["rows"]
    assert [row["case"] for row in rows] == [{"beams": 3}]


def test_a_wrong_list_is_told() -> None:
    problem = decoding_peers.problem_of(TINY)
    told = {"return_dict_in_generate": True, "output_scores": True}
    found = decoding_peers.contender(problem, "nested", **told)(problem.input_ids, problem.mask)
    theirs = found.sequences, found.sequences_scores
    ours = decoding_peers.contender(problem, "full")(problem.input_ids, problem.mask)
    assert same_lists(problem, "nested", theirs, ours)["same_result"]
    swapped = ours._replace(items=ours.items.flip(1))
    assert not same_lists(problem, "nested", theirs, swapped)["same_result"]
    shifted = ours._replace(scores=ours.scores + 1e-3)
    assert not same_lists(problem, "nested", theirs, shifted)["same_result"]
    strange = ours._replace(items=(ours.items + 1) % TINY.items)
    assert not same_lists(problem, "nested", theirs, strange)["same_result"]


def test_checks_count_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    search = constrained_beam_search

    def unfiltered(*args: Any, **options: Any) -> Any:
        return search(*args, **{k: v for k, v in options.items() if k != "excluded"})

    monkeypatch.setattr(decoding_peers, "constrained_beam_search", unfiltered)
    found = decoding_checks.generated_items(PLAN.tiny, 400)
    assert found["ours"]["forbidden"] > 0
    assert not found["same_result"]


def test_peers_agree_with_each_other() -> None:
    problem = decoding_peers.problem_of(TINY)
    lists = [
        decoding_peers.contender(problem, name)(problem.input_ids, problem.mask)
        for name in ("nested", "strings", "reused")
    ]
    assert torch.equal(lists[0], lists[1])
    assert torch.equal(lists[0], lists[2])
    assert race(problem, ("level",), 1)["same_result"] is None


def test_random_codes_are_different_and_uneven() -> None:
    codes = random_codes(5_000, (32, 32, 32))
    assert len({tuple(row) for row in codes.tolist()}) == 5_000
    assert codes.min() == 0
    assert codes.max() == 31
    counts = torch.from_numpy(codes[:, 0]).bincount()
    assert counts.max() > 4 * counts.min()


PEAKS = """
import torch
from benchmarks import decoding_memory
kept = torch.ones(64 << 20, dtype=torch.uint8)  # 64 MiB that are there before
before = decoding_memory.reset_peak()
torch.ones(32 << 20, dtype=torch.uint8)
print(decoding_memory.resident_mb(peak=True) - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")
def test_peaks_are_of_the_call_alone() -> None:
    # As in the benchmark, in a process of its own: this one may have memory left to use again.
    done = subprocess.run([sys.executable, "-c", PEAKS], capture_output=True, text=True, check=True)
    assert 31 < float(done.stdout) < 34
    assert decoding_memory.peak_of_search("level", TINY)["peak_mb"] < 30
    assert decoding_memory.dict_of_items("nested", TINY)["build_seconds"] >= 0


@pytest.mark.parametrize("plan", [Plan(), QUICK, PLAN])
def test_every_row_has_a_case_of_its_own(plan: Plan) -> None:
    tasks = [task for section in decoding.SECTIONS.values() for task in section(plan)]
    keys = {json.dumps([task.section, task.case]) for task in tasks}
    assert len(keys) == len(tasks)


def test_sections_are_named_and_have_what_they_need() -> None:
    given = {"data": None, "generator": None, "sids": "das"}
    assert list(decoding.sections(argparse.Namespace(only=None, **given))) == list(
        decoding.SECTIONS
    )
    assert list(decoding.sections(argparse.Namespace(only=["main"], **given))) == ["main"]
    with pytest.raises(ValueError, match=r"--only: no section \['speed'\]"):
        decoding.sections(argparse.Namespace(only=["speed"], **given))
    with pytest.raises(ValueError, match="--only trained: needs --data and --generator"):
        decoding.sections(argparse.Namespace(only=["trained"], **given))
