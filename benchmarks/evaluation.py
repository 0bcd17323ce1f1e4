"""Time and memory of evaluation: metrics of given lists, and scoring of the whole catalogue.

    OMP_NUM_THREADS=2 python -m benchmarks.evaluation --out benchmarks/results/evaluation.json

Metrics: lists of 50 of 100,000 items. Peer: ir-measures (pytrec_eval) on the same lists for the
accuracy metrics alone, its input objects made beforehand and not timed. `all metrics` adds what the
peer has no measure for (popularity and its gap, novelty, diversity of 384-wide vectors,
serendipity, coverage, Gini, invalid and duplicate rates), held against the same peer time.

Scoring: dot products of 64-wide vectors with all items, in blocks, the best 50 of each query.
Peer: faiss's exact inner-product index.
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import ir_measures
import numpy as np
import numpy.typing as npt
from benchmarks.document import write_document
from benchmarks.random_world import random_world
from ir_measures import AP, RR, R, Success, nDCG

from dasrec.core import Corpus
from dasrec.core.catalogue_lists import recommend_blocks
from dasrec.core.corpus import Int64s, Ragged
from dasrec.eval.ranking_metrics import Ints, metrics_of_ranks, rank_of_target
from dasrec.eval.scorecard import Backdrop, score_lists

Floats = npt.NDArray[np.float32]
Work = Callable[[], Any]

KS = (5, 10, 20, 50)
WIDTH = 50
PEER_MEASURES = {"recall": R, "ndcg": nDCG, "hr": Success, "mrr": RR, "map": AP}


class Lists(NamedTuple):
    """Lists and what they are held against."""

    items: Ints
    targets: Ints
    backdrop: Backdrop


def random_lists(users: int, items: int, width: int, vector_dim: int) -> Lists:
    """Lists of distinct popular items; three in ten hold the target."""
    rng = np.random.default_rng(0)
    starts = rng.integers(0, items, (users, 1))
    steps = 1 + rng.integers(0, 40, (users, width)).cumsum(1) + np.arange(width)
    lists = ((starts + steps) % items).astype(np.int32)
    hit = rng.random(users) < 0.3
    chosen = lists[np.arange(users), rng.integers(0, width, users)]
    targets = np.where(hit, chosen, rng.integers(0, items, users)).astype(np.int32)
    history = rng.integers(0, items, users * 8).astype(np.int32)
    backdrop = Backdrop(
        rng.geometric(0.02, items),
        Ragged(history, np.arange(0, users * 8 + 1, 8)),
        rng.standard_normal((items, vector_dim), np.float32),
        rng.integers(0, items, users),
    )
    return Lists(lists, targets, backdrop)


def alternate(contenders: Mapping[str, Work], runs: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Median seconds of each, run in turns, and what each returned last."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    result: dict[str, Any] = {}
    for _ in range(runs):
        for name, work in contenders.items():
            began = time.perf_counter()
            result[name] = work()
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}, result


def ours_accuracy(lists: Lists) -> dict[str, float]:
    """Recall, NDCG, hit rate, MRR and MAP."""
    return metrics_of_ranks(rank_of_target(lists.items, lists.targets), KS)


def ours_all(lists: Lists) -> dict[str, float]:
    """Every metric there is."""
    ranks = rank_of_target(lists.items, lists.targets)
    return score_lists(lists.items, ranks, KS, lists.backdrop).overall


def peer_metrics(lists: Lists) -> Work:
    """ir-measures on objects that are made here."""
    names = [str(query) for query in range(len(lists.items))]
    qrels = {name: {str(target): 1} for name, target in zip(names, lists.targets, strict=True)}
    run = {
        name: {str(item): float(-place) for place, item in enumerate(row)}
        for name, row in zip(names, lists.items.tolist(), strict=True)
    }
    measures = {f"{name}@{k}": m @ k for name, m in PEER_MEASURES.items() for k in KS}
    evaluator = ir_measures.evaluator(list(measures.values()), qrels)

    def work() -> dict[str, float]:
        found = evaluator.calc_aggregate(run)
        return {name: found[measure] for name, measure in measures.items()}

    return work


def metric_rows(users: int, items: int, runs: int) -> list[dict[str, Any]]:
    """One row for the accuracy metrics, one for all."""
    lists = random_lists(users, items, WIDTH, vector_dim=384)
    contenders: dict[str, Work] = {
        "accuracy": lambda: ours_accuracy(lists),
        "all": lambda: ours_all(lists),
        "peer": peer_metrics(lists),
    }
    seconds, result = alternate(contenders, runs)
    rows = []
    for what in ("accuracy", "all"):
        same = all(abs(result[what][k] - v) < 1e-9 for k, v in result["peer"].items())
        rows.append(
            {
                "case": {"what": f"{what} metrics", "users": users, "items": items, "list": WIDTH},
                "ours": {
                    "seconds": round(seconds[what], 4),
                    "peak_mb": peak_mb(_metrics_alone, what, users, items),
                    "metrics": len(result[what]),
                },
                "peer": {
                    "name": "ir-measures, accuracy metrics",
                    "version": version("ir_measures"),
                    "seconds": round(seconds["peer"], 4),
                },
                "ratio": round(seconds["peer"] / seconds[what], 1),
                "same_result": same,
            }
        )
    return rows


def _metrics_alone(what: str, users: int, items: int) -> None:
    lists = random_lists(users, items, WIDTH, vector_dim=384)
    (ours_accuracy if what == "accuracy" else ours_all)(lists)


def dot_products(corpus: Corpus, users_UD: Floats, items_ID: Floats) -> Callable[[Int64s], Floats]:
    """A scorer by matrix product."""

    def score(queries: Int64s) -> Floats:
        scores: Floats = users_UD[corpus.user_idx[queries]] @ items_ID.T
        return scores

    return score


def scoring_row(users: int, items: int, runs: int) -> dict[str, Any]:
    """Lists of all queries by dot products."""
    with tempfile.TemporaryDirectory() as folder:
        corpus, vectors = random_world(
            Path(folder), users=users, items=items, clicks=6 * users, width=64
        )
        score = dot_products(corpus, vectors.users, vectors.items)
        queries = np.sort(np.concatenate([corpus.queries("valid"), corpus.queries("test")]))
        index = faiss.IndexFlatIP(vectors.items.shape[1])
        index.add(vectors.items)
        contenders: dict[str, Work] = {
            "ours": lambda: recommend_blocks(corpus, WIDTH, "never", score),
            "peer": lambda: index.search(vectors.users[corpus.user_idx[queries]], WIDTH),
        }
        seconds, result = alternate(contenders, runs)
        scores, found = result["peer"]
        mine = result["ours"]
        # products of another order of summation differ in the last digits, so near ties may swap
        same = bool(np.allclose(mine.score, scores, rtol=1e-4, atol=1e-4))
        return {
            "case": {"what": "scoring", "queries": len(queries), "items": items, "list": WIDTH},
            "ours": {
                "seconds": round(seconds["ours"], 3),
                "peak_mb": peak_mb(_scoring_alone, users, items),
            },
            "peer": {
                "name": "faiss.IndexFlatIP",
                "version": faiss.__version__,
                "seconds": round(seconds["peer"], 3),
            },
            "ratio": round(seconds["peer"] / seconds["ours"], 2),
            "same_result": same,
            "same_places": round(float((mine.item_idx == found).mean()), 6),
        }


def _scoring_alone(users: int, items: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        corpus, vectors = random_world(
            Path(folder), users=users, items=items, clicks=6 * users, width=64
        )
        score = dot_products(corpus, vectors.users, vectors.items)
        recommend_blocks(corpus, WIDTH, "never", score)


def peak_mb(work: Callable[..., None], *arguments: Any) -> int:
    """Peak memory of a fresh process that does the work: interpreter, libraries and input too."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (work, *arguments))


def _measured(work: Callable[..., None], *arguments: Any) -> int:
    work(*arguments)
    status = Path("/proc/self/status").read_text()  # ru_maxrss would hold the parent's peak too
    return round(int(status.split("VmHWM:")[1].split()[0]) / 2**10)


def main() -> None:
    """Measure every case and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/evaluation.json"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="small cases, to try the script")
    options = parser.parse_args()
    items = 5_000 if options.quick else 100_000
    sizes = (1_000,) if options.quick else (10_000, 100_000)
    rows = []
    for users in sizes:
        rows += metric_rows(users, items, options.runs)
    rows.append(scoring_row(500 if options.quick else 5_000, items, options.runs))
    for row in rows:
        sys.stdout.write(json.dumps(row) + "\n")
    write_document(options.out, "evaluation", rows)


if __name__ == "__main__":
    main()
