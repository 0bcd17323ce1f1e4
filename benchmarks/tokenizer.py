"""Time and memory of the tokenizer: training, giving out codes, growth to a million items.

    python -m benchmarks.tokenizer --data runs/beauty

Training is measured against `benchmarks.plain_das` on the same model and data. Without --data the
data are random, of the size of Amazon Beauty. `--full-fit` adds one whole training run.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks import plain_das
from benchmarks.document import write_document
from benchmarks.random_world import random_world
from benchmarks.same_losses import World, build, same_losses

from dasrec.core import load_corpus, load_embeddings
from dasrec.tokenizer import DasConfig, train_tokenizer
from dasrec.tokenizer.methods.das import Das
from dasrec.tokenizer.objective import Step
from dasrec.tokenizer.trainer import Trainer, make_optimizer

BEAUTY = {"users": 22_363, "items": 12_101, "clicks": 153_776, "width": 384}
SIZES = (10_000, 100_000, 1_000_000)
FULL_EPOCHS = 20
CASES = (("none", "last"), ("none", "none"), ("last", "last"))
"""Levels with Sinkhorn: each as it comes (public loops balance the last level, DAS does not need
it), then alike."""


def loop(das: Das, trainer: Trainer) -> Iterator[int]:
    """Our steps without end; gives the click pairs of each."""
    rng = np.random.default_rng(0)
    while True:
        for items, users, clicks in das.batches("main", rng):
            assert clicks is not None
            trainer._step((items, users, clicks), Step("main", 0.5, True))
            yield len(clicks.click_items_B)


def training(world: World, sinkhorn: tuple[str, str], runs: int, steps: int) -> dict[str, Any]:
    """Seconds per 1000 click pairs, from sampling to the optimizer's step, in turns.

    Args:
        world: the data.
        sinkhorn: balanced levels of ours and of the peer.
        runs: of each.
        steps: of a run.
    """
    config, plain = (
        DasConfig(epochs=FULL_EPOCHS, sinkhorn=levels)  # type: ignore[arg-type]
        for levels in sinkhorn
    )
    ours, theirs = build(config, world), build(plain, world)
    loops = {
        "ours": loop(ours, Trainer(ours, config, seed=0)),
        "peer": plain_das.train(theirs, make_optimizer(theirs, plain), plain.batch_size),
    }
    for contender in loops.values():
        next(contender)  # lists and matrices are made once
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(runs):
        for name, contender in loops.items():
            began = time.perf_counter()
            pairs = sum(next(contender) for _ in range(steps))
            seconds[name].append((time.perf_counter() - began) / pairs * 1000)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    agree, detail = same_losses(world)
    return {
        "case": {
            "what": "training, per 1000 click pairs",
            "sinkhorn": dict(zip(("ours", "peer"), sinkhorn, strict=True)),
            **_size(world),
        },
        "ours": {"seconds": round(median["ours"], 5), "runs": _rounded(seconds["ours"])},
        "peer": {
            "name": "DataLoader over clicks, four forward passes, (B, B) scores",
            "seconds": round(median["peer"], 5),
            "runs": _rounded(seconds["peer"]),
        },
        "ratio": round(median["peer"] / median["ours"], 2),
        "same_result": agree,
        "compared": "every loss term on a batch of distinct users and items, Sinkhorn off",
        **detail,
    }


def assignment(world: World, items: int, runs: int) -> dict[str, Any]:
    """Seconds to encode and quantize `items` rows; the peer goes in batches of 64."""
    side = build(DasConfig(), world).eval().sides.items
    x = torch.randn(items, side.encoder[0].in_features)

    def peer() -> torch.Tensor:
        codes = []
        for batch in torch.utils.data.DataLoader(x, batch_size=64):  # type: ignore[arg-type]
            residual = side.encoder(torch.nn.functional.normalize(batch))
            levels = []
            for book in side.codebooks:
                levels.append(torch.cdist(residual, book).argmin(1))
                residual = residual - book[levels[-1]]
            codes.append(torch.stack(levels, 1))
        return torch.cat(codes)

    contenders: dict[str, Callable[[], torch.Tensor]] = {
        "ours": lambda: side.quantize(x).codes_NL,
        "peer": peer,
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    codes = {}
    with torch.no_grad():
        for _ in range(runs):
            for name, run in contenders.items():
                began = time.perf_counter()
                codes[name] = run()
                seconds[name].append(time.perf_counter() - began)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    equal = float((codes["ours"] == codes["peer"]).all(1).double().mean())
    return {
        "case": {"what": "codes of new items", "items": items, "width": x.shape[1]},
        "ours": {
            "seconds": round(median["ours"], 4),
            "items_per_second": round(items / median["ours"]),
        },
        "peer": {"name": "batches of 64, torch.cdist", "seconds": round(median["peer"], 4)},
        "ratio": round(median["peer"] / median["ours"], 2),
        "same_result": equal > 0.9999,  # rounding decides between codewords equally near
        "equal_rows": equal,
    }


def growth(sizes: tuple[int, ...], threads: int) -> list[dict[str, Any]]:
    """One fresh process for each number of items."""
    rows = []
    for items in sizes:
        command = [sys.executable, "-m", "benchmarks.tokenizer_growth", str(items), str(threads)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows.append(json.loads(done.stdout))
    return rows


def full_fit(world: World, folder: Path) -> dict[str, Any]:
    """A whole training run, from the arrays to the artifact."""
    began = time.perf_counter()
    train_tokenizer(DasConfig(epochs=FULL_EPOCHS), *world, folder / "fit")
    return {
        "case": {"what": "whole fit", "epochs": FULL_EPOCHS, **_size(world)},
        "ours": {"seconds": round(time.perf_counter() - began, 1)},
    }


def _size(world: World) -> dict[str, int]:
    corpus, embeddings = world
    return {
        "users": corpus.num_users,
        "items": corpus.num_items,
        "clicks": len(corpus.train_rows),
        "width": embeddings.items.shape[1],
    }


def _rounded(values: list[float]) -> list[float]:
    return [round(value, 5) for value in values]


def main() -> None:
    """Measure and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with corpus/ and embeddings/")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/tokenizer.json"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100, help="of training, in each run")
    parser.add_argument("--items", type=int, default=200_000, help="to give codes to")
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="of the growth table")
    parser.add_argument("--full-fit", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    grown = growth(tuple(args.sizes), args.threads)  # first: a child inherits its parent's peak
    with tempfile.TemporaryDirectory() as scratch:
        if args.data is None:
            world = random_world(Path(scratch), **BEAUTY)
        else:
            corpus = load_corpus(args.data / "corpus")
            world = (corpus, load_embeddings(args.data / "embeddings", corpus))
        rows = [training(world, sinkhorn, args.runs, args.steps) for sinkhorn in CASES]
        rows.append(assignment(world, args.items, args.runs))
        if args.full_fit:
            rows.append(full_fit(world, Path(scratch)))
    write_document(args.out, "tokenizer", rows + grown, threads=args.threads)


if __name__ == "__main__":
    main()
