"""Rows per second of the CTR model, in training and in scoring, against torch-rechub's.

    python -m benchmarks.ranking

Same rows, fields, widths, layers, batch and Adam on both sides. The library pads histories to the
longest allowed, we compute the real ones only; it normalises batches in its MLPs, we do not. `peer`
is the library as it comes (its loader and its trainer's step), `peer_model` its model alone on
batches that were made beforehand.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.document import write_document
from benchmarks.ranking_peer import VERSION, Peer, install
from benchmarks.ranking_world import CtrWorld, ctr_world

from dasrec.core import build_config
from dasrec.eval.ctr_metrics import auc
from dasrec.ranking import Ranker, RankingConfig, rows_of
from dasrec.ranking.loop import batch_loss
from dasrec.ranking.row_tensors import to_tensors
from dasrec.ranking.rows import Rows, some_rows
from dasrec.ranking.train import new_ranker

CASES: dict[str, dict[str, Any]] = {
    "din": {"backbone": "din"},
    "dcnv2": {"backbone": "dcnv2", "history": "mean", "cross_rank": None},
}


def our_steps(ranker: Ranker, config: RankingConfig, rows: Rows) -> Iterator[int]:
    """Training steps without end, those of `fit_ranker`; rows of each."""
    optimizer = torch.optim.AdamW(ranker.model.parameters(), config.learning_rate, fused=True)
    tensors = to_tensors(rows, ranker.model.schema, ranker.source.device)
    while True:
        for picked in torch.split(torch.randperm(len(rows.label)), config.batch_size):
            ranker.model.train()
            loss = batch_loss(ranker, tensors, picked, 1 / len(picked))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            yield len(picked)


def measure_case(world: CtrWorld, name: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Training and scoring of one model, both sides in turns."""
    values = {"model": CASES[name], "features": {"max_history": args.max_history}}
    config = build_config(RankingConfig, values | {"batch_size": args.batch_size}, "benchmark")
    train, test = (rows_of(config.negatives, world.corpus, split, 0) for split in ("train", "test"))
    test = some_rows(test, slice(args.scored))
    torch.manual_seed(0)
    ranker = new_ranker(config, world.corpus, None, train, seed=0)
    peer, alone = Peer(world, config), Peer(world, config)
    steps = {
        "ours": our_steps(ranker, config, train),
        "peer": peer.steps(peer.loader(train, shuffle=True)),
        "peer_model": alone.steps(alone.ready(train)),
    }
    for loop in steps.values():
        next(loop)
    trained = in_turns({name: _some(loop, args.steps) for name, loop in steps.items()}, args.runs)
    for loop in (steps["ours"], steps["peer_model"]):
        for _ in range(args.learned - args.runs * args.steps):
            next(loop)
    loader, ready = peer.loader(test, shuffle=False), peer.ready(test)
    scored = in_turns(
        {
            "ours": lambda: len(ranker.score_rows(test)),
            "peer": lambda: len(peer.predict(loader)),
            "peer_model": lambda: len(peer.predict(ready)),
        },
        args.runs,
    )
    aucs = {
        "ours": auc(test.label, ranker.score_rows(test)),
        "peer": auc(test.label, np.array(alone.predict(loader))),
    }
    case = {
        "model": name,
        "threads": torch.get_num_threads(),
        "users": world.corpus.num_users,
        "items": world.corpus.num_items,
        "train_rows": len(train.label),
        "fields": world.users.shape[1] + world.items.shape[1] + 3,
        "mean_history": round(float(_history_lengths(world, train).mean()), 1),
        "max_history": args.max_history,
        "batch_size": args.batch_size,
    }
    return [
        _row(case | {"what": "training"}, trained, aucs),
        _row(case | {"what": "scoring"}, scored, aucs),
    ]


def in_turns(work: dict[str, Callable[[], int]], runs: int) -> dict[str, float]:
    """Rows per second of each: the median of runs in turns."""
    rates: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(runs):
        for name, run in work.items():
            began = time.perf_counter()
            rows = run()
            rates[name].append(rows / (time.perf_counter() - began))
    return {name: statistics.median(values) for name, values in rates.items()}


def _some(loop: Iterator[int], steps: int) -> Callable[[], int]:
    return lambda: sum(next(loop) for _ in range(steps))


def _history_lengths(world: CtrWorld, rows: Rows) -> Any:
    return rows.history_end - world.corpus.user_start[rows.user_idx]


def _row(case: dict[str, Any], rates: dict[str, float], aucs: dict[str, float]) -> dict[str, Any]:
    rounded = {name: round(value, 4) for name, value in aucs.items()}
    return {
        "case": case,
        "ours": _rate(rates["ours"]),
        "peer": {"name": f"torch-rechub {VERSION}", **_rate(rates["peer"])},
        "peer_model": {"name": "its model, batches made before", **_rate(rates["peer_model"])},
        "ratio": round(rates["ours"] / rates["peer"], 2),
        "ratio_model": round(rates["ours"] / rates["peer_model"], 2),
        "same_result": abs(aucs["ours"] - aucs["peer"]) < 0.02,
        "compared": f"AUC of the test rows after equally many steps: {rounded}",
    }  # fmt: skip


def _rate(rows_per_second: float) -> dict[str, float]:
    return {
        "seconds": round(1000 / rows_per_second, 5),  # of 1000 rows
        "rows_per_second": round(rows_per_second),
    }


def main() -> None:
    """Measure and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/ranking.json"))
    parser.add_argument("--threads", type=int, nargs="+", default=(1, 2))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="in each run of training")
    parser.add_argument("--learned", type=int, default=400, help="steps before AUCs are compared")
    parser.add_argument("--scored", type=int, default=40_000, help="rows in each run of scoring")
    parser.add_argument("--users", type=int, default=27_285)
    parser.add_argument("--items", type=int, default=7_583)
    parser.add_argument("--rows", type=int, default=1_000_000, help="exposures, all splits")
    parser.add_argument("--max-history", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=2048)
    args = parser.parse_args()
    install()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        world = ctr_world(Path(scratch), users=args.users, items=args.items, rows=args.rows)
        for threads in args.threads:
            torch.set_num_threads(threads)
            rows += [row for name in CASES for row in measure_case(world, name, args)]
    write_document(args.out, "ranking", rows)


if __name__ == "__main__":
    main()
