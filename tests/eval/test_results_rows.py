"""Intervals, costs and figures beyond accuracy on the results page."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.stats import binom
from tests.eval.test_results import cells, line

from dasrec.core import Manifest
from dasrec.eval.report import EvalReport
from dasrec.eval.report_intervals import report_intervals
from dasrec.eval.results import append_results, read_results, results_table


def per_query(users: list[int], ranks: list[int | None], split: str = "test") -> pl.DataFrame:
    late = [user % 2 == 0 for user in users]
    return pl.DataFrame(
        {"user_idx": users, "rank": ranks, "split": split, "slice.tie_free": late},
        schema_overrides={"rank": pl.Int32},
    ).with_columns(pl.lit(False).alias("slice.cold_items"))


def report(table: pl.DataFrame) -> EvalReport:
    manifest = Manifest(kind="", config={"ks": [5, 10]}, inputs={}, files={})
    return EvalReport(manifest, "das", {}, table)


def test_recall_of_single_queries_has_a_binomial_interval() -> None:
    users, hits = 4000, 600
    table = per_query(list(range(users)), [7] * hits + [None] * (users - hits))
    other = per_query([0], [1], split="valid")
    found = report_intervals(report(pl.concat([table, other])), "test")
    assert found["recall@5"] == (0, 0)
    expected = binom.ppf([0.025, 0.975], users, hits / users) / users
    np.testing.assert_allclose(found["recall@10"], expected, atol=0.0006)
    gain = 1 / np.log2(1 + 7)
    np.testing.assert_allclose(found["ndcg@10"], expected * gain, atol=0.0006 * gain)
    assert np.diff(found["recall@10[tie_free]"]) > np.diff(found["recall@10"])  # half the users
    assert not any("cold_items" in name for name in found)  # nobody asked for one


def test_users_are_drawn_not_queries() -> None:
    # 400 users hit all of their nine queries or none: queries are no more certain than users
    users = np.repeat(np.arange(400), 9)
    ranks = [1 if user < 200 else None for user in users.tolist()]
    low, high = report_intervals(report(per_query(users.tolist(), ranks)), "test")["recall@10"]
    np.testing.assert_allclose([low, high], binom.ppf([0.025, 0.975], 400, 0.5) / 400, atol=0.004)


def test_intervals_come_back_and_are_shown(tmp_path: Path) -> None:
    lines = [
        line(intervals={"recall@10": (0.09, 0.11), "recall@5": (0.0, 1.0)}),
        line(seed=1, intervals={"recall@10": (0.1, 0.14), "ndcg@10[tie_free]": (0.01, 0.02)}),
        line(method="popularity"),  # recorded before there were intervals
    ]
    append_results(tmp_path, *lines)
    assert read_results(tmp_path) == lines
    (das,) = cells(results_table(tmp_path), "**test, 95% intervals")
    assert list(das)[4:] == ["recall@10", "ndcg@10[tie_free]"]
    assert (das["seeds"], das["recall@10"]) == ("2", "0.0950 to 0.1250")
    assert das["ndcg@10[tie_free]"] == "0.0100 to 0.0200"


def test_costs_are_those_of_the_stages_and_their_sum(tmp_path: Path) -> None:
    append_results(
        tmp_path,
        line(seconds={"evaluate": 2.4, "train": 60.0, "tokenize": 10.0}),
        line(seed=1, seconds={"evaluate": 1.4, "train": 80.0}, hardware="one GPU"),
        line(method="item_knn", seconds={"retrieve": 5.0, "sorting": 7.0}),
        line(split="valid"),
    )
    page = results_table(tmp_path)
    das, knn = cells(page, "**wall-clock")
    assert list(das)[4:] == [
        *("tokenize s", "train s", "retrieve s", "evaluate s", "total s", "hardware")
    ]
    assert [das[f"{stage} s"] for stage in ("tokenize", "train", "total")] == ["10", "70", "77"]
    assert das["hardware"] == "2 CPU cores, 24 GiB; one GPU"
    assert (knn["retrieve s"], knn["train s"], knn["total s"]) == ("5", "-", "12")
    assert page.count("**wall-clock") == 1


@pytest.mark.parametrize("topic", ["ladder", "generator", "tokenizers"])
def test_bias_and_new_items_stand_beside_accuracy(tmp_path: Path, topic: str) -> None:
    bias = {"novelty@10": 9.0, "popularity@10": 40.0, "popularity_gap@10": 0.5, "gini@10": 0.9}
    cold = {"recall@10[cold_items]": 0.01, "queries[cold_items]": 138.0}
    metrics = bias | cold | {"recall@10": 0.07, "popularity@5": 41.0}
    append_results(
        tmp_path,
        line(topic=topic, metrics=metrics),
        line(topic=topic, metrics=metrics, split="valid"),
    )
    page = results_table(tmp_path)
    (row,) = cells(page, "**test, popularity bias")
    assert list(row)[4:] == [
        *("recall@10", "cold-item recall@10", "cold queries", "ARP@10", "popularity_gap@10"),
        *("gini@10", "novelty@10"),
    ]
    assert (row["cold-item recall@10"], row["cold queries"]) == ("0.0100", "138")
    assert (row["ARP@10"], row["popularity_gap@10"]) == ("40", "0.5000")
    assert "**valid, popularity bias" not in page


def test_two_protocols_of_a_data_set_have_footnotes_of_their_own(tmp_path: Path) -> None:
    append_results(tmp_path, line(), line(protocol="global_time/full/item", command="dasrec run y"))
    page = results_table(tmp_path)
    notes = [text.split("]:")[0] for text in page.splitlines() if text.startswith("[^")]
    assert len(set(notes)) == 2
