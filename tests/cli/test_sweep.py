"""Sweeps over the stages of real runs, on a small log."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from filelock import FileLock

from dasrec.baselines import ItemKnnConfig
from dasrec.cli.config import RunConfig, load_run_config
from dasrec.cli.main import sweep as command
from dasrec.cli.pipeline import Run
from dasrec.cli.sweep import Sweep
from dasrec.core import build_config
from dasrec.core.config import set_keys
from dasrec.eval.report import load_report

KNN = {
    "of": "reports/item_knn",
    "parameters": {
        "baselines.item_knn.window": {"choices": [1, 4]},
        "baselines.item_knn.backward_weight": {"low": 0.0, "high": 1.0, "step": 0.5},
    },
}
DOCUMENT: dict[str, Any] = {
    "name": "small",
    "prepare": {"interactions": {"path": "log.parquet", "columns": {"order": "pos"}}},
    "embed": {
        "items": {"encoder": "cooccurrence"},
        "users": {"encoder": "history_mean"},
        "cooccurrence": {"dim": 8},
    },
    "baselines": {"popularity": {"width": 20}, "item_knn": {"width": 20}, "ease": {"width": 20}},
    "tokenizers": {
        "das": {"method": "das", "level_sizes": [4, 4], "code_dim": 4, "hidden": [8], "epochs": 2}
    },
}


def write_log(folder: Path, test_seed: int = 0) -> Path:
    """Users walk along a ring of items; only the last event depends on `test_seed`."""
    rng = np.random.default_rng(0)
    steps = rng.integers(1, 4, (60, 9))
    items = (rng.integers(0, 30, (60, 1)) + np.cumsum(steps, axis=1)) % 30
    items[:, -1] = np.random.default_rng(test_seed).integers(0, 30, 60)
    folder.mkdir(parents=True)
    pl.DataFrame(
        {
            "user_id": np.repeat([f"u{u}" for u in range(60)], 9),
            "item_id": [f"i{item}" for item in items.ravel()],
            "timestamp": np.tile(np.arange(9) * 86_400, 60),
            "pos": np.tile(np.arange(9), 60),
        }
    ).write_parquet(folder / "log.parquet")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("raw") / "a")


def sweep(out: Path, data: Path | None, section: Mapping[str, Any], **more: Any) -> Sweep:
    return Sweep(DOCUMENT | {"sweep": dict(section)} | more, "test", out, data)


def test_trials_are_runs_that_share_artifacts(data: Path, tmp_path: Path) -> None:
    plan = sweep(tmp_path / "sweep", data, KNN)
    trials = plan.run()
    assert len(trials) == 6
    for trial in trials:
        settings = build_config(RunConfig, set_keys(DOCUMENT, trial.params), "test")
        alone = Run(settings, tmp_path / f"alone{trial.number}", data, {"prepare", "baselines"})
        alone.execute()
        Run(settings, alone.out, data, {"evaluate"}).execute()
        report = load_report(alone.path("reports", "item_knn"))
        assert trial.value == report.splits["valid"]["all"]["ndcg@10"]
    folders = [plan.trial_path(number) for number in range(6)]
    assert {p.name for p in (folders[0] / "recommendations").glob("[!.]*")} == {"item_knn"}
    assert not (folders[0] / "tokenizers").exists()
    assert len({(f / "corpus" / "item_idx.npy").stat().st_ino for f in folders}) == 1
    lists = [f / "recommendations" / "item_knn" / "recommendations.parquet" for f in folders]
    assert len({path.stat().st_ino for path in lists}) == 6

    best = max(trials, key=lambda trial: trial.value or 0)
    chosen = load_run_config(tmp_path / "sweep" / "best.yaml")
    assert chosen == build_config(RunConfig, set_keys(DOCUMENT, best.params), "test")
    assert plan.table(trials).columns[0]._cells[0] == str(best.number)
    again = Run(chosen, tmp_path / "final", data, reuse=[plan.trial_path(best.number)])
    again.execute()  # the lists of the best trial are taken over
    found = again.path("recommendations", "item_knn", "recommendations.parquet")
    assert found.stat().st_ino == lists[best.number].stat().st_ino


def test_the_test_split_changes_nothing(tmp_path: Path) -> None:
    found = []
    for seed in (0, 1):
        data = write_log(tmp_path / f"raw{seed}", test_seed=seed)
        plan = sweep(tmp_path / f"sweep{seed}", data, KNN)
        trials = [trial.as_json() | {"seconds": 0} for trial in plan.run()]
        best = (tmp_path / f"sweep{seed}" / "best.yaml").read_text()
        report = load_report(plan.trial_path(0) / "reports" / "item_knn")
        found.append((trials, best, report.splits["test"]["all"]["ndcg@10"]))
    assert found[0][:2] == found[1][:2]
    assert found[0][2] != found[1][2]


def test_goes_on_and_refuses_another_sweep(data: Path, tmp_path: Path) -> None:
    first = sweep(tmp_path / "sweep", data, KNN | {"trials": 2}).run()
    stamp = (tmp_path / "sweep" / "trials" / "0001" / "corpus").stat().st_ctime_ns
    later = sweep(tmp_path / "sweep", data, KNN).run()
    assert later[:2] == first
    assert len(later) == 6
    assert (tmp_path / "sweep" / "trials" / "0001" / "corpus").stat().st_ctime_ns == stamp
    with pytest.raises(ValueError, match=r"holds the trials of another sweep \(its sweep differ"):
        sweep(tmp_path / "sweep", data, KNN | {"metric": "recall@10"}).run()
    with pytest.raises(ValueError, match=r"another sweep \(its document differ"):
        sweep(tmp_path / "sweep", data, KNN, seed=1).run()
    with pytest.raises(ValueError, match=r"another sweep \(its raw differ"):
        sweep(tmp_path / "sweep", write_log(tmp_path / "other", 5), KNN).run()
    with (
        FileLock(tmp_path / "sweep" / ".sweep.lock"),
        pytest.raises(ValueError, match="another call is at work"),
    ):
        sweep(tmp_path / "sweep", data, KNN).run()


def test_a_tokenizer_is_judged_by_its_sids(data: Path, tmp_path: Path) -> None:
    section = {
        "of": "sids/das",
        "metric": "item/collision_rate_before",
        "goal": "min",
        "parameters": {"tokenizers.das.level_sizes": {"choices": [[2, 2], [8, 8], [99, 99]]}},
    }
    plan = sweep(tmp_path / "sweep", data, section)
    trials = plan.run()
    assert [trial.state for trial in trials] == ["done", "done", "failed"]
    assert "cannot have more codewords than there are" in trials[2].error
    assert (trials[1].value or 0) < (trials[0].value or 0)
    assert yaml.safe_load((tmp_path / "sweep" / "best.yaml").read_text())["tokenizers"]["das"][
        "level_sizes"
    ] == [8, 8]
    vectors = [plan.trial_path(n) / "embeddings" / "items.npy" for n in range(2)]
    assert vectors[0].stat().st_ino == vectors[1].stat().st_ino
    assert not (plan.trial_path(0) / "recommendations").exists()


def test_says_so_if_all_trials_fail(data: Path, tmp_path: Path) -> None:
    section = {
        "of": "sids/das",
        "metric": "item/collision_rate",
        "parameters": {"tokenizers.das.level_sizes": {"choices": [[98, 98], [99, 99]]}},
    }
    with pytest.raises(ValueError, match="all 2 trials failed, the first with ValueError: tok"):
        sweep(tmp_path / "sweep", data, section).run()
    assert not (tmp_path / "sweep" / "best.yaml").exists()


def test_mistakes_are_named_before_any_work(data: Path, tmp_path: Path) -> None:
    values = {"choices": [1, 2]}
    faults: list[tuple[dict[str, Any], str]] = [
        ({"parameters": {"baselines.item_knn.windw": values}}, "did you mean 'window'"),
        ({"parameters": {"baselines.item_knn.window": {"choices": ["a"]}}}, "expected a valid int"),
        ({"parameters": {"baselines.popularity.width": {"choices": [20, 30]}}}, "does not depend"),
        ({"parameters": {"embed.cooccurrence.dim": values}}, "does not depend on it"),
        ({"of": "reports/nothing"}, r"makes no 'nothing'; known: popularity, item_knn, ease"),
        ({"of": "reports/sasrec"}, "no baseline 'sasrec'"),
        ({"of": "corpus"}, "expected one of tokenizers/NAME"),
    ]
    for changes, message in faults:
        with pytest.raises(ValueError, match=message):
            sweep(tmp_path / "sweep", data, KNN | changes)
    with pytest.raises(ValueError, match="give its folder with --data"):
        sweep(tmp_path / "sweep", None, KNN)
    with pytest.raises(ValueError, match="the config has no section 'sweep'"):
        Sweep(DOCUMENT, "test", tmp_path / "sweep", data)
    assert not (tmp_path / "sweep").exists()
    with pytest.raises(ValueError, match=r"no figure 'ndgc@10' .* known: .*ndcg@10"):
        sweep(tmp_path / "sweep", data, KNN | {"metric": "ndgc@10"}).run()


def test_the_command_prints_the_best_first(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    section = KNN | {"parameters": {"baselines.item_knn.window": {"choices": [1, 4]}}}
    path, out = tmp_path / "knn.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(DOCUMENT | {"sweep": section}))
    command(path, ["baselines.item_knn.max_history=3"], out, data, None)
    lines = [json.loads(line) for line in (out / "sweep.jsonl").read_text().splitlines()]
    best = max(lines, key=lambda line: line["value"])
    printed = capsys.readouterr().out
    assert "ndcg@10 of reports/item_knn, validation" in " ".join(printed.split())
    rows = [line for line in printed.splitlines() if line.startswith("│")]
    assert rows[0].split("│")[1].strip() == str(best["number"])
    assert f"dasrec run {out / 'best.yaml'}" in printed
    assert load_run_config(out / "best.yaml").baselines.item_knn == ItemKnnConfig(
        width=20, max_history=3, **{"window": best["params"]["baselines.item_knn.window"]}
    )
