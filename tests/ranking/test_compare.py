"""Comparison of arms: plan, resumption, slices, figures and tests against what was planted."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from tests.ranking.rich_world import ITEMS, field, write

from dasrec.core import Corpus
from dasrec.core.seeding import generator
from dasrec.eval.ctr_metrics import user_aucs
from dasrec.ranking import RankingConfig
from dasrec.ranking.compare import (
    ArmConfig,
    CompareConfig,
    compare_report,
    default_arms,
    plan_arms,
    run_arms,
)
from dasrec.ranking.compare.arms import ArmResult, load_arm
from dasrec.ranking.compare.config import Arm
from dasrec.ranking.compare.figures import Results
from dasrec.ranking.compare.paired import compare_arms
from dasrec.ranking.compare.slices import row_slices
from dasrec.ranking.features.fields import DenseField

TRAIN = RankingConfig.model_validate(
    {
        "epochs": 1,
        "model": {"embedding_dim": 4, "hidden_dims": (8,)},
        "features": {"hash_size": 64, "max_history": 10},
    }
)
ARMS = {
    "id_only": ArmConfig(against=()),
    "id_shuffled": ArmConfig(tokenizer="das", shuffle_sids=True),
    "id_das": ArmConfig(tokenizer="das", against=("id_only", "id_shuffled")),
}


def plan(**values: Any) -> dict[str, Arm]:
    config = CompareConfig(**({"arms": ARMS} | values))
    return plan_arms(config, TRAIN, "das", ("das", "tiger"), Path("run/embeddings"))


def given(world: Any) -> dict[str, str]:
    return {"das": world.sids.fingerprint}


@pytest.fixture(scope="module")
def finished(small: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    run_arms(plan(), (0, 1), small.corpus, {"das": small.sids}, folder)
    return folder


def test_modes_multiply_the_arms_with_sids_only() -> None:
    modes = {"prefix": {"features": {"sid_match": False}}, "match": {}}
    planned = plan(modes=modes)
    assert list(planned) == [
        "id_only",
        *("id_shuffled.prefix", "id_shuffled.match"),
        *("id_das.prefix", "id_das.match"),
    ]
    assert planned["id_das.prefix"].against == ("id_only", "id_shuffled.prefix")
    assert not planned["id_das.prefix"].train.features.sid_match
    assert planned["id_das.prefix"].train.features.hash_size == 64  # the rest stays
    assert planned["id_das.match"].train == TRAIN


def test_default_arms_set_the_main_tokenizer_against_all_others() -> None:
    arms = default_arms("das", ("tiger", "das", "qarm"))
    assert {"id_only", "id_shuffled", "id_tiger", "id_qarm", "sid_only"} < set(arms)
    assert set(arms["id_das"].against) == {
        *("id_only", "id_shuffled", "id_tiger", "id_qarm", "id_das_item")
    }
    assert set(arms["id_das_item"].against) == {
        *("id_only", "id_shuffled_item", "id_tiger", "id_qarm")
    }
    planned = plan(arms=None)
    for arm in planned.values():
        assert set(arm.against) <= set(planned)
    dense = planned["id_content"].train.features.fields[-1]
    assert isinstance(dense, DenseField)
    assert dense.path == "run/embeddings"
    assert planned["id_only"].train == TRAIN


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        (ArmConfig(tokenizer="letter"), "'letter' is not in tokenizers"),
        (ArmConfig(shuffle_sids=True), "no SIDs to shuffle"),
        (ArmConfig(against=("id_das",)), "'id_das' is not another arm"),
        (ArmConfig(against=(), train={"features": {"sid_mach": True}}), "did you mean 'sid_match'"),
    ],
)
def test_refuses_a_bad_arm_before_anything_is_trained(arm: ArmConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(arms={"id_only": ArmConfig(against=()), "other": arm})


@pytest.mark.parametrize("name", ["../up", "a.b", "Match", ""])
def test_names_that_cannot_be_folders_are_refused(name: str) -> None:
    message = "use lower-case letters, digits and _ in the name"
    with pytest.raises(ValueError, match=rf"modes\..*{message}"):
        plan(modes={name: {}})
    with pytest.raises(ValueError, match=rf"arms\..*{message}"):
        plan(arms={name: ArmConfig(against=())})


def test_finished_arms_are_kept_and_lost_ones_made_again_alike(finished: Path, small: Any) -> None:
    kept = finished / "id_das" / "0" / "model" / "model.safetensors"
    lost = finished / "id_das" / "1" / "logits" / "test.parquet"
    before, bytes_before = kept.stat().st_mtime_ns, lost.read_bytes()
    lost.unlink()
    run_arms(plan(), (0, 1), small.corpus, {"das": small.sids}, finished)
    assert kept.stat().st_mtime_ns == before
    assert lost.read_bytes() == bytes_before


def test_shuffled_sids_are_a_permutation(finished: Path, small: Any) -> None:
    real = np.asarray(small.sids.items.codes)
    seen = []
    for seed in ("0", "1"):
        codes = np.load(finished / "id_shuffled" / seed / "sids" / "items.codes.npy")
        assert sorted(map(tuple, codes)) == sorted(map(tuple, real))
        assert (codes != real).any(1).mean() > 0.5
        seen.append(codes)
    assert (seen[0] != seen[1]).any()


def test_report_holds_the_figures_of_the_models(finished: Path, small: Any) -> None:
    report = compare_report(plan(), (0, 1), small.corpus, given(small), finished, 200)
    json.dumps(report, allow_nan=False)
    for arm, facts in report["arms"].items():
        for place, seed in enumerate(facts["seeds"]):
            result = load_arm(plan()[arm], seed, small.corpus, given(small), finished)
            assert result is not None
            assert result.model.seed == seed
            groups = user_aucs(result.user_idx, result.label, result.logit)
            values = facts["slices"]["all"]["gauc"]["values"]
            assert values[place] == pytest.approx(groups.gauc)
            own = result.model.metrics["test"]["all"]
            assert values[place] == pytest.approx(own["gauc"], abs=1e-6)
    pairs = {(found["arm"], found["against"]) for found in report["comparisons"]}
    assert pairs == {
        *(("id_shuffled", "id_only"), ("id_das", "id_only"), ("id_das", "id_shuffled"))
    }
    one = next(c for c in report["comparisons"] if (c["metric"], c["slice"]) == ("gauc", "all"))
    assert one["primary"]
    assert one["difference"] == pytest.approx(one["mean"] - one["mean_against"], abs=1e-9)
    assert one["low"] <= one["difference"] <= one["high"]


def test_slices_by_hand(make_corpus: Any) -> None:
    # Items 0..3 have 6, 2, 0 and 0 training impressions; users 0..2 have 6, 2 and 0.
    user = np.array([0] * 6 + [0, 0] + [1] * 2 + [1] + [2, 2])
    item = np.array([0, 0, 0, 0, 1, 1, 1, 2, 0, 0, 3, 2, 0])
    split = np.array([0] * 6 + [2, 2] + [0] * 2 + [2] + [2, 2])
    label = np.array([1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 1, 0], np.float32)
    corpus = make_corpus(user, item, np.arange(13), label, split, (3, 4), impressions=True)
    test = split == 2
    got = row_slices(corpus, user[test], item[test], label[test])  # items 1, 2, 3, 2, 0
    names = {name: mask.astype(int).tolist() for name, mask in got.items()}
    assert names == {
        "all": [1, 1, 1, 1, 1],
        "unseen": [0, 1, 1, 1, 0],
        "few": [1, 0, 0, 0, 0],
        "cold": [1, 1, 1, 1, 0],
        "warm": [0, 0, 0, 0, 1],
        "head": [0, 0, 0, 0, 1],
        "unseen_vs_all": [0, 1, 1, 1, 1],  # item 1 is a positive that is not unseen
        "cold_vs_all": [1, 1, 1, 1, 1],
        "unseen_users": [0, 0, 0, 1, 1],
        "light_users": [0, 0, 1, 0, 0],  # the median of 6 and 2 is 4
        "heavy_users": [1, 1, 0, 0, 0],
    }


def planted_results(gain: float, num_users: int = 300) -> Results:
    """Two arms and three seeds; one arm's logits lean more towards the label."""
    rng = generator(0, "test")
    user = np.repeat(np.arange(num_users), 12)
    label = (rng.random(len(user)) < 0.4).astype(float)
    item = np.zeros(len(user), np.int64)
    arms: dict[str, dict[int, ArmResult]] = {"a": {}, "b": {}}
    for seed in range(3):
        noise = rng.normal(size=len(user))
        for arm, strength in (("a", 0.3 + gain), ("b", 0.3)):
            logit = strength * label + noise + 0.05 * rng.normal(size=len(user))
            arms[arm][seed] = ArmResult(user, item, label, logit, None)  # type: ignore[arg-type]
    return Results(arms, {key: {"all": np.ones(len(user), np.bool_)} for key in range(3)})


@pytest.mark.parametrize(("gain", "found"), [(0.2, True), (0.0, False)])
def test_a_planted_difference_is_found_and_none_is_not(gain: float, found: bool) -> None:
    planned = {
        "b": Arm("b", None, False, TRAIN, ()),
        "a": Arm("a", None, False, TRAIN, ("b",)),
    }
    results = planted_results(gain)
    compared = {c.metric: c for c in compare_arms(planned, results, 300, 1000)}
    assert set(compared) == {"auc", "gauc", "uauc", "logloss"}
    for metric in ("auc", "gauc", "uauc"):
        one = compared[metric]
        assert (one.low > 0) == found
        assert (one.p_holm < 0.01) == found
        assert one.p_seeds is not None
        assert one.difference == pytest.approx(one.mean - one.mean_against, abs=1e-9)
        assert one.low < one.difference < one.high
    gaucs = [
        [user_aucs(r.user_idx, r.label, r.logit).gauc for r in results.arms[arm].values()]
        for arm in "ab"
    ]
    assert compared["gauc"].difference == pytest.approx(np.mean(gaucs[0]) - np.mean(gaucs[1]))


def test_arms_with_other_rows_are_refused(finished: Path, small: Any, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    changed = folder / "id_das" / "0" / "logits" / "test.parquet"
    pl.read_parquet(changed).with_columns(pl.col("item_idx") + 1).write_parquet(changed)
    with pytest.raises(ValueError, match="'id_only' and 'id_das' have other test rows for seed 0"):
        compare_report(plan(), (0, 1), small.corpus, given(small), folder, 100)


def test_what_is_not_finished_is_left_out(finished: Path, small: Any, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / "id_shuffled")
    shutil.rmtree(folder / "id_das" / "1")
    report = compare_report(plan(), (0, 1), small.corpus, given(small), folder, 100)
    assert {name: facts["seeds"] for name, facts in report["arms"].items()} == {
        "id_only": [0, 1],
        "id_das": [0],
    }
    assert {tuple(found["seeds"]) for found in report["comparisons"]} == {(0,)}
    assert {found["p_seeds"] for found in report["comparisons"]} == {None}
    with pytest.raises(ValueError, match="no finished arm"):
        compare_report(plan(), (7,), small.corpus, given(small), folder, 100)


def finished_seeds(
    planned: dict[str, Arm], seeds: tuple[int, ...], corpus: Corpus, sids: dict[str, str], at: Path
) -> dict[str, list[int]]:
    report = compare_report(planned, seeds, corpus, sids, at, 100)
    return {name: facts["seeds"] for name, facts in report["arms"].items()}


def test_what_was_made_otherwise_is_left_out(
    finished: Path, small: Any, make_corpus: Any, caplog: pytest.LogCaptureFixture
) -> None:
    both, corpus, sids = (0, 1), small.corpus, given(small)
    longer = ArmConfig(tokenizer="das", train={"epochs": 2}, against=("id_only",))
    changed = plan(arms=ARMS | {"id_das": longer})
    assert finished_seeds(changed, both, corpus, sids, finished) == {
        "id_only": [0, 1],
        "id_shuffled": [0, 1],
    }
    assert "id_das/0 was made with other settings" in caplog.text
    # other semantic IDs, or none any more
    for now in ({"das": "0123456789abcdef"}, {}):
        assert set(finished_seeds(plan(), both, corpus, now, finished)) == {"id_only"}
    user, item, time, label, split = small.log
    other = make_corpus(user, item, time, 1 - label, split, small.sizes, impressions=True)
    with pytest.raises(ValueError, match="no finished arm"):
        compare_report(plan(), both, other, sids, finished, 100)


def test_logits_of_an_earlier_model_are_not_finished(
    finished: Path, small: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    logits = folder / "id_das" / "1" / "logits"
    shutil.rmtree(logits)
    shutil.copytree(folder / "id_das" / "0" / "logits", logits)
    report = finished_seeds(plan(), (0, 1), small.corpus, given(small), folder)
    assert report["id_das"] == [0]


def test_changed_vectors_make_an_arm_again(tmp_path: Path) -> None:
    corpus, path, folder = write(tmp_path / "corpus"), tmp_path / "v.npy", tmp_path / "compare"
    dense = field("dense", "item", "content", path=str(path))
    arm = ArmConfig(against=(), train={"features": {"fields": [dense]}})
    planned = plan(arms={"id_content": arm})
    seen = []
    for seed in (0, 1):
        np.save(path, np.random.default_rng(seed).normal(size=(ITEMS, 3)).astype(np.float32))
        if seed:
            with pytest.raises(ValueError, match="no finished arm"):
                finished_seeds(planned, (0,), corpus, {}, folder)
        run_arms(planned, (0,), corpus, {}, folder)
        assert finished_seeds(planned, (0,), corpus, {}, folder) == {"id_content": [0]}
        seen.append((folder / "id_content" / "0" / "logits" / "test.parquet").read_bytes())
    assert seen[0] != seen[1]
