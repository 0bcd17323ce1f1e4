import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dasrec.core import Ragged
from dasrec.eval.ctr_metrics import ctr_report
from dasrec.eval.modules import METRICS, comparison_path, load_comparison, load_metric, metric_path
from dasrec.eval.ranking_metrics import rank_of_target, ranking_metrics
from dasrec.eval.scorecard import Backdrop, score_lists
from dasrec.eval.significance import compare

LISTS = [[4, 7, 2], [7], [], [1, 2]]


@pytest.mark.filterwarnings("default")
def test_loads_by_path_in_a_fresh_offline_process(tmp_path: Path) -> None:
    """As a user would: nothing but `evaluate` and the path."""
    code = (
        "import evaluate, json\n"
        f"metric = evaluate.load({str(metric_path('ranking_at_k'))!r})\n"
        "print(json.dumps(metric.compute(predictions=[[4, 7, 2], [7], []],"
        " references=[2, 7, 1], ks=[3])))"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    env |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "https_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["ndcg@3"] == pytest.approx((0.5 + 1 + 0) / 3)


def test_ranking_module_is_the_function_on_one_target() -> None:
    got = load_metric("ranking_at_k").compute(predictions=LISTS, references=[2, 7, 1, 9], ks=(2, 3))
    padded = np.array([[4, 7, 2], [7, -1, -1], [-1, -1, -1], [1, 2, -1]])
    assert got == ranking_metrics(padded, np.array([2, 7, 1, 9]), (2, 3))


def test_ranking_module_on_several_targets() -> None:
    got = load_metric("ranking_at_k").compute(
        predictions=LISTS, references=[[2, 9], [7], [1], [2, 1]], ks=(3,)
    )
    assert got["recall@3"] == pytest.approx((1 / 2 + 1 + 0 + 1) / 4)
    assert got["mrr@3"] == pytest.approx((1 / 3 + 1 + 0 + 1) / 4)


def test_ranking_module_adds_slices_and_list_metrics() -> None:
    got = load_metric("ranking_at_k").compute(
        predictions=LISTS,
        references=[2, 7, 1, 9],
        ks=(3,),
        slices={"odd": np.array([0, 1, 0, 1], bool), "none": np.zeros(4, bool)},
        train_item_count=np.ones(8, np.int64),
    )
    assert got["recall@3[odd]"] == pytest.approx(1 / 2)
    assert got["coverage@3"] == pytest.approx(4 / 8)
    assert not [key for key in got if "none" in key]


def test_ranking_module_is_the_scorecard_with_all_it_can_be_held_against() -> None:
    count, vectors = np.arange(10), np.random.default_rng(0).normal(size=(10, 4))
    got = load_metric("ranking_at_k").compute(
        predictions=LISTS,
        references=[2, 7, 1, 9],
        ks=(2, 3),
        train_item_count=count,
        profiles=[[1, 2], [3], [4, 4], [5]],
        item_vectors=vectors,
        expected=[[7, 2], [7], [1], []],
    )
    padded = np.array([[4, 7, 2], [7, -1, -1], [-1, -1, -1], [1, 2, -1]])
    profiles = Ragged(np.array([1, 2, 3, 4, 4, 5], np.int32), np.array([0, 2, 3, 5, 6]))
    backdrop = Backdrop(count, profiles, vectors, np.array([2, 1, 1, 0]))
    ranks = rank_of_target(padded, np.array([2, 7, 1, 9]))
    assert got == score_lists(padded, ranks, (2, 3), backdrop).overall
    assert {"popularity_gap@3", "diversity@2", "serendipity@3", "duplicate_rate@2"} <= set(got)


def test_batches_give_what_one_call_gives() -> None:
    metric = load_metric("ranking_at_k")
    metric.add_batch(predictions=LISTS[:3], references=[2, 7, 1])
    metric.add(prediction=LISTS[3], reference=9)
    assert metric.compute() == metric.compute(predictions=LISTS, references=[2, 7, 1, 9])


def test_ctr_module_is_the_report() -> None:
    rng = np.random.default_rng(0)
    logits, users = rng.normal(size=200), rng.integers(0, 20, 200)
    labels = (rng.random(200) < 0.4).astype(int)
    metric = load_metric("ctr")
    got = metric.compute(predictions=logits, references=labels, groups=users)
    assert got == pytest.approx(ctr_report(users, labels, logits))
    short = metric.compute(predictions=logits, references=labels)
    assert short == {name: pytest.approx(got[name]) for name in ("auc", "logloss")}


def test_paired_test_is_the_comparison() -> None:
    rng = np.random.default_rng(1)
    one, users = rng.random(90), rng.integers(0, 40, 90)
    two = one + rng.normal(0.02, 0.1, 90)
    got = load_comparison("paired_test").compute(
        predictions1=one, predictions2=two, users=users, num_samples=500, seed=3
    )
    assert got == compare(one, two, users, num_samples=500, seed=3)._asdict()
    assert got["difference"] == pytest.approx((two - one).mean())
    with pytest.raises(ValueError, match="comparison 't_test': unknown; known: paired_test"):
        comparison_path("t_test")


def test_every_module_has_the_layout_that_evaluate_wants() -> None:
    folder = metric_path(METRICS[0]).parent
    assert sorted(p.name for p in folder.iterdir() if p.name != "__pycache__") == sorted(METRICS)
    for name in METRICS:
        lines = (metric_path(name) / f"{name}.py").read_text().splitlines()
        # its import scanner reads `import a, b` as one package called "a,"
        assert not [line for line in lines if line.startswith("import ") and "," in line]


def test_unknown_module() -> None:
    with pytest.raises(ValueError, match="unknown; known: ctr, ranking_at_k"):
        metric_path("accuracy")
