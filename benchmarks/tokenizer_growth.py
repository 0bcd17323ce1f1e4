"""One row of the growth table of benchmarks/tokenizer.py, measured in a process of its own.

    python -m benchmarks.tokenizer_growth 100000 2

Half as many users as items, ten training clicks a user, 128 wide content.
"""

import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.random_world import random_world

from dasrec.tokenizer import DasConfig
from dasrec.tokenizer.collisions import reassign_last
from dasrec.tokenizer.kmeans import init_codebooks
from dasrec.tokenizer.objective import Step
from dasrec.tokenizer.train import build_objective
from dasrec.tokenizer.trainer import Trainer

STEPS = 30
WIDTH = 128


def peak_mb() -> int:
    """Of this process, so far."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)


def measure(items: int, folder: Path) -> dict[str, Any]:
    """Training steps, codes and unique SIDs for a random catalogue."""
    sizes = {"users": items // 2, "items": items, "clicks": 5 * items, "width": WIDTH}
    corpus, embeddings = random_world(folder, **sizes)
    data_mb = peak_mb()
    config = DasConfig()
    began = time.perf_counter()
    objective = build_objective(config, corpus, embeddings).train()
    trainer = Trainer(objective, config, seed=0, warm=True)
    batches = objective.batches("main", np.random.default_rng(0))
    trainer._step(next(batches), Step("main", 0.5, True))
    ready = time.perf_counter()
    for _ in range(STEPS):
        trainer._step(next(batches), Step("main", 0.5, True))
    trained, train_mb = time.perf_counter(), peak_mb()
    side = objective.eval().sides.items
    init_codebooks(side.quantizer, side.encode(objective.data.items_IX), 0)
    clustered = time.perf_counter()
    encoded = side.quantize(objective.data.items_IX)
    assigned = time.perf_counter()
    reassign_last(
        encoded.codes_NL.numpy(),
        encoded.residual_ND.numpy(),
        side.codebooks[-1].numpy(),
        corpus.train_item_count,
    )
    ended = time.perf_counter()
    return {
        "case": {"what": "growth", **sizes},
        "ours": {
            "ready_seconds": round(ready - began, 2),
            "steps_per_second": round(STEPS / (trained - ready), 2),
            "kmeans_seconds": round(clustered - trained, 2),
            "codes_seconds": round(assigned - clustered, 2),
            "unique_seconds": round(ended - assigned, 2),
            "data_mb": data_mb,
            "train_peak_mb": train_mb,
            "peak_mb": peak_mb(),
        },
    }


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[2]))
    with tempfile.TemporaryDirectory() as scratch:
        sys.stdout.write(json.dumps(measure(int(sys.argv[1]), Path(scratch))) + "\n")
