"""The search alone, on hand-made stages."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dasrec.cli.sweep_config import SweepConfig
from dasrec.cli.sweep_search import Trial, propose, ranked, read_trials, search
from dasrec.core import build_config

PARAMETERS: dict[str, Any] = {
    "a.x": {"low": 0, "high": 4, "step": 1},
    "a.y": {"choices": [1.5, 2.5, None]},
}


def config(**values: Any) -> SweepConfig:
    given = {"parameters": PARAMETERS, "of": "reports/das"} | values
    return build_config(SweepConfig, given, "test: sweep")


def stage(out: Path, log: list[int]) -> tuple[Callable[..., None], Callable[[int], float]]:
    """Best at x = 3, y = 2.5; fails without y."""

    def attempt(number: int, params: dict[str, Any]) -> None:
        log.append(number)
        value = -((params["a.x"] - 3) ** 2) - (params["a.y"] - 2.5) ** 2
        (out / f"value_{number}").write_text(str(value))

    return attempt, lambda number: float((out / f"value_{number}").read_text())


def run(settings: SweepConfig, out: Path, log: list[int] | None = None) -> list[Trial]:
    for _ in search(settings, out, *stage(out, [] if log is None else log)):
        pass
    return read_trials(out)


def test_a_grid_finds_the_optimum_and_survives_failures(tmp_path: Path) -> None:
    trials = run(config(), tmp_path)
    assert [(t.params["a.x"], t.params["a.y"]) for t in trials] == [
        (x, y) for x in range(5) for y in (1.5, 2.5, None)
    ]
    best, *_, worst = ranked(config(), trials)
    assert (best.params, best.value) == ({"a.x": 3, "a.y": 2.5}, 0.0)
    assert [t.state for t in trials].count("failed") == 5
    assert worst.value is None
    assert "TypeError" in worst.error
    assert "Traceback" in (tmp_path / f"trial_{worst.number:04d}.error.txt").read_text()
    least = ranked(config(goal="min"), trials)[0]
    assert least.params == {"a.x": 0, "a.y": 1.5}


@pytest.mark.parametrize("sampler", ["grid", "random", "tpe"])
def test_a_stopped_sweep_goes_on_with_the_same_trials(sampler: str, tmp_path: Path) -> None:
    settings = config(sampler=sampler, trials=15, seed=1)
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    whole.mkdir()
    halves.mkdir()
    unbroken = run(settings, whole)
    log: list[int] = []
    for trials in search(settings, halves, *stage(halves, log)):
        if len(trials) == 12:
            break
    attempt, judge = stage(halves, log)

    def killed(number: int, params: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(search(settings, halves, killed, judge))
    assert len(read_trials(halves)) == 12  # the trial that was cut off is not in the log
    for _ in search(settings, halves, attempt, judge):
        pass
    assert log == list(range(15))  # nothing twice
    assert [t.params for t in read_trials(halves)] == [t.params for t in unbroken]
    assert [t.value for t in read_trials(halves)] == [t.value for t in unbroken]


def test_tpe_learns_and_random_differs_by_seed(tmp_path: Path) -> None:
    parameters = {"a.x": {"low": -10.0, "high": 10.0}, "a.y": {"choices": [2.5]}}
    settings = config(parameters=parameters, sampler="tpe", trials=40)
    trials = run(settings, tmp_path)
    far = [abs(t.params["a.x"] - 3) for t in trials]
    assert sum(far[25:]) / 15 < 0.5 * sum(far[:10]) / 10
    draws = [
        propose(config(sampler="random", trials=1, seed=seed, parameters=parameters), 0, [])
        for seed in (0, 0, 1)
    ]
    assert draws[0] == draws[1] != draws[2]


def test_ranges_keep_their_kind() -> None:
    parameters = {
        "whole": {"low": 2, "high": 64, "log": True},
        "even": {"low": 2, "high": 8, "step": 2},
        "rate": {"low": 1.0e-4, "high": 1.0e-2, "log": True},
        "sections": {"choices": [None, {"r": 8}, [1, 2]]},
    }
    settings = config(parameters=parameters, sampler="random", trials=30)
    found = [propose(settings, number, []) for number in range(30)]
    assert all(isinstance(each["whole"], int) and 2 <= each["whole"] <= 64 for each in found)
    assert {each["even"] for each in found} == {2, 4, 6, 8}
    assert all(1e-4 <= each["rate"] <= 1e-2 for each in found)
    below = sum(each["rate"] < 1e-3 for each in found)
    assert 8 <= below <= 22  # half of the logarithms
    assert {json.dumps(each["sections"]) for each in found} == {"null", '{"r": 8}', "[1, 2]"}
    learned = [Trial(number=0, params=found[0], state="done", value=1.0)]
    assert propose(settings, 1, learned) == found[1]  # sections can be given back


def test_a_missing_figure_ends_the_search(tmp_path: Path) -> None:
    def judge(number: int) -> float:
        raise ValueError("no figure")

    with pytest.raises(ValueError, match="no figure"):
        list(search(config(), tmp_path, lambda number, params: None, judge))
    assert not read_trials(tmp_path)
    trials = next(search(config(), tmp_path, lambda number, params: None, lambda _: float("nan")))
    assert (trials[0].state, trials[0].error) == ("failed", "ndcg@10 is nan")


def test_faults_of_the_section_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    faults: list[tuple[dict[str, Any], str]] = [
        ({"parameters": {"x": {"choices": [1], "low": 2}}}, "either choices or a range"),
        ({"parameters": {"x": {"low": 3, "high": 2}}}, "low <= high, got 3 and 2"),
        ({"parameters": {"x": {"low": 0.0, "high": 2.0, "log": True}}}, "needs low above 0"),
        ({"parameters": {"x": {"low": 0, "high": 2, "step": 0.5}}}, "must be whole"),
        ({"parameters": {"x": {"low": 0.0, "high": 1.0}}}, "a grid needs choices"),
        ({"parameters": {}}, "at least 1 item"),
        ({"sampler": "tpe"}, "needs to know how many"),
    ]
    for values, message in faults:
        with pytest.raises(ValueError, match=message):
            config(**values)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ValueError, match=r"pip install 'dasrec\[sweep\]'"):
        propose(config(sampler="random", trials=1), 0, [])
