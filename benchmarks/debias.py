"""What debiasing does to the CF vectors and to the quantized ones, where the truth is known.

    python benchmarks/debias.py --record docs/results

Generated users follow their taste and the crowd. DAS is trained on their clicks with every variant
of its CF model and one budget, and compared with the interests and the popularity behind the log:

    popularity_r2    linear R^2 of the items' log training clicks from their vectors (leakage)
    interest_r2      mean linear R^2 of the true interests from users' (or items') vectors
    taste, crowd     mean over users of the correlation of the scores cos(u, i) with the true
                     interest in i, and with i's log clicks; `_rank`: Spearman's

each for the vectors that the alignment aims at (`cf`) and for the quantized ones (`z`).
"""

import argparse
import hashlib
import json
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from scipy.stats import rankdata

from dasrec.core import Corpus, Embeddings, build_config, seed_everything
from dasrec.core.artifacts import code_version
from dasrec.core.embed import embed
from dasrec.core.embed_config import EmbedConfig
from dasrec.core.prepare import PrepareConfig, prepare
from dasrec.core.synthetic import SyntheticConfig, generate
from dasrec.eval.result_line import ResultLine
from dasrec.eval.results import append_results, hardware, typed
from dasrec.tokenizer import DasConfig, IcdmConfig
from dasrec.tokenizer.methods.das import Das
from dasrec.tokenizer.report import linear_r2
from dasrec.tokenizer.train import build_objective
from dasrec.tokenizer.trainer import Trainer

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Truth = dict[str, Floats]

VARIANTS = {
    "none": IcdmConfig(variant="none"),
    "none_without_logq": IcdmConfig(variant="none", logq_bias=False),
    "cd2an": IcdmConfig(variant="cd2an"),
    "dice": IcdmConfig(variant="dice"),
}
SMALL: dict[str, Any] = {
    "level_sizes": (64, 64, 64),
    "hidden": (128,),
    "epochs": 12,
    "batch_size": 512,
}
PREPARE = {
    "interactions": {"path": "impressions.parquet", "columns": {"label": "click"}},
    "items": {"path": "items.parquet"},
    "users": {"path": "users.parquet"},
    "positive_label": 1.0,
}


def make_world(folder: Path, users: int, items: int, seed: int) -> tuple[Corpus, Embeddings, Truth]:
    """A click log, its embeddings, and what is behind it in the corpus' order."""
    generate(SyntheticConfig(num_users=users, num_items=items), folder / "raw", seed=seed)
    config = build_config(PrepareConfig, PREPARE, "debias")
    corpus = prepare(config, folder / "raw", folder / "corpus")
    embeddings = embed(EmbedConfig(), corpus, folder / "embeddings", seed=seed)
    truth = {}
    for side, table in (("item", corpus.items), ("user", corpus.users)):
        raw = pl.read_parquet(folder / "raw" / f"{side}s.parquet").with_row_index("row")
        order = table.join(raw, on=f"{side}_id", maintain_order="left")["row"].to_numpy()
        truth[side] = np.load(folder / "raw" / "truth" / f"{side}_interest.npy")[order]
    return corpus, embeddings, truth


def train(config: DasConfig, corpus: Corpus, embeddings: Embeddings, seed: int) -> Das:
    """All epochs, without an artifact."""
    seed_everything(seed, "tokenizer", "init")
    das = build_objective(config, corpus, embeddings)
    assert isinstance(das, Das)
    trainer = Trainer(das, config, seed)
    for epoch in range(trainer.num_epochs):
        seed_everything(seed, "tokenizer", "epoch", epoch)
        trainer.run_epoch(epoch)
    return das.eval()


@torch.no_grad()
def vectors(das: Das) -> dict[str, tuple[Floats, Floats]]:
    """Users and items, as CF targets and quantized."""
    assert das.icdm is not None
    towers = das.icdm.users, das.icdm.items
    users, items = (das.icdm.target(t(torch.arange(len(t.statistics_NS)))) for t in towers)
    z_users = das.sides.users.quantize(das.data.users_UX).z_ND
    z_items = das.sides.items.quantize(das.data.items_IX).z_ND
    return {
        "cf": (_unit(users), _unit(items)),
        "z": (_unit(z_users), _unit(z_items)),
    }


def _unit(x: torch.Tensor) -> Floats:
    unit: Floats = torch.nn.functional.normalize(x).numpy()
    return unit


def measure(das: Das, truth: Truth) -> dict[str, float]:
    """The metrics of the module's docstring, over users and items with training clicks."""
    corpus = das.data.corpus
    count = corpus.train_item_count
    items = np.flatnonzero(count)
    users = np.flatnonzero(np.diff(corpus.train_sequences.starts))
    crowd = np.log(count[items])[None]
    liking = truth["user"][users] @ truth["item"][items].T
    metrics: dict[str, float] = {}
    for name, (x_users, x_items) in vectors(das).items():
        scores = x_users[users] @ x_items[items].T
        metrics |= {
            f"popularity_r2_{name}": linear_r2(x_items[items], crowd[0]),
            f"interest_r2_{name}_users": interest(x_users[users], truth["user"][users]),
            f"interest_r2_{name}_items": interest(x_items[items], truth["item"][items]),
            f"taste_{name}": correlation(scores, liking),
            f"taste_rank_{name}": correlation(rankdata(scores, axis=1), rankdata(liking, axis=1)),
            f"crowd_{name}": correlation(scores, crowd),
            f"crowd_rank_{name}": correlation(rankdata(scores, axis=1), rankdata(crowd, axis=1)),
        }
    return {metric: round(value, 4) for metric, value in metrics.items()}


def interest(x: Floats, true: Floats) -> float:
    """Mean over the factors."""
    return float(np.mean([linear_r2(x, column) for column in true.T]))


def correlation(a_UI: npt.NDArray[Any], b_UI: npt.NDArray[Any]) -> float:
    """Mean over the rows of Pearson's r; a row of equal values counts 0."""
    a, b = (x - x.mean(1, keepdims=True, dtype=np.float64) for x in (a_UI, b_UI))
    spread: Doubles = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return float(np.mean((a * b).sum(1) / np.maximum(spread, 1e-12)))


def main() -> None:
    """Train every variant on every seed's world and append a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", type=Path, required=True, help="folder of result lines")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--users", type=int, default=3000)
    parser.add_argument("--items", type=int, default=1000)
    args = parser.parse_args()
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as scratch:
            corpus, embeddings, truth = make_world(Path(scratch), args.users, args.items, seed)
            for variant, icdm in VARIANTS.items():
                config = DasConfig(icdm=icdm, **SMALL)
                began = time.perf_counter()
                das = train(config, corpus, embeddings, seed)
                seconds = time.perf_counter() - began
                line = ResultLine(
                    topic="debias",
                    dataset=f"synthetic_{args.users}_{args.items}",
                    protocol="hidden_truth",
                    method="das",
                    variant=variant,
                    seed=seed,
                    split="test",
                    metrics=measure(das, truth),
                    users=corpus.num_users,
                    seconds={"train": round(seconds, 1)},
                    hardware=hardware(),
                    command=typed(["python", *sys.argv]),
                    config_sha256=hashlib.sha256(
                        json.dumps(config.as_json(), sort_keys=True).encode()
                    ).hexdigest(),
                    data_sha256=corpus.manifest.fingerprint,
                    code=code_version(),
                    date=datetime.now(UTC).isoformat(timespec="seconds"),
                )
                append_results(args.record, line)
                sys.stdout.write(f"{variant} {seed} {seconds:.0f} s {line.metrics}\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
