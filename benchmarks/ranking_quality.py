"""Is the CTR model without semantic IDs a fair baseline? torch-rechub's DIN on the same rows.

    python -m benchmarks.ranking_quality RUN CONFIG --record docs/results

RUN is the folder of `dasrec rank compare CONFIG`. The library's DIN gets the categories and the
history of our model (not its numbers and lists, for which it has no embedding), the same widths,
layers, batch, learning rate and schedule, and stops by the same rule: at the best validation GAUC,
after `patience` epochs without a better one. The figures are appended to ranking.jsonl.
"""

import argparse
import copy
import hashlib
import json
import logging
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from benchmarks.ranking_peer import VERSION, Peer, install
from benchmarks.ranking_world import CtrWorld
from scipy.special import logit

from dasrec.cli.config import load_run_config
from dasrec.core import Corpus, load_corpus
from dasrec.core.artifacts import code_version
from dasrec.eval.ctr_metrics import ctr_report, user_aucs
from dasrec.eval.result_line import ResultLine
from dasrec.eval.results import append_results, hardware, typed
from dasrec.ranking import RankingConfig, rows_of
from dasrec.ranking.calibration import LEAST
from dasrec.ranking.compare.slices import row_slices
from dasrec.ranking.loop import set_learning_rate
from dasrec.ranking.rows import Rows
from dasrec.ranking.train import new_ranker

log = logging.getLogger(__name__)


def same_categories(config: RankingConfig, corpus: Corpus, train: Rows) -> CtrWorld:
    """The corpus with the categories that our model without semantic IDs reads."""
    tables = new_ranker(config, corpus, None, train, seed=0).tables
    return CtrWorld(
        corpus, tables.users.categories[:-1].numpy(), tables.items.categories[1:].numpy()
    )


def fit(peer: Peer, config: RankingConfig, train: Rows, valid: Rows) -> int:
    """Train with the library's loader and step; returns the best epoch, whose weights
    the model ends with."""
    steps = peer.steps(peer.loader(train, shuffle=True))
    held_out = peer.loader(valid, shuffle=False)
    best, chosen, weights = 0.0, 0, copy.deepcopy(peer.model.state_dict())
    for epoch in range(1, config.epochs + 1):
        seen = 0
        while seen < len(train.label):
            done = epoch - 1 + seen / len(train.label)
            set_learning_rate(config, peer.trainer.optimizer, done)
            seen += next(steps)
        gauc = user_aucs(valid.user_idx, valid.label, np.array(peer.predict(held_out))).gauc
        log.info("epoch %d: validation GAUC %.4f", epoch, gauc)
        if gauc > best:
            best, chosen, weights = gauc, epoch, copy.deepcopy(peer.model.state_dict())
        elif epoch - chosen >= config.patience:
            break
    peer.model.load_state_dict(weights)
    return chosen


def main() -> None:
    """Train, measure the test rows, record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("config", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", type=Path, required=True)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    install()
    run_config = load_run_config(args.config, [])
    assert run_config.ranking is not None
    config = run_config.ranking.train
    corpus = load_corpus(args.run / "corpus")
    train, valid, test = (
        rows_of(config.negatives, corpus, split, args.seed) for split in ("train", "valid", "test")
    )
    torch.manual_seed(args.seed)
    peer = Peer(same_categories(config, corpus, train), config)
    began = time.perf_counter()
    epoch = fit(peer, config, train, valid)
    seconds = round(time.perf_counter() - began, 1)
    logits = logit(np.clip(peer.predict(peer.loader(test, shuffle=False)), LEAST, 1 - LEAST))
    metrics: dict[str, float] = {"best_epoch": epoch}
    slices = row_slices(
        corpus, test.user_idx.astype(np.int64), test.item_idx.astype(np.int64), test.label
    )
    for name, mask in slices.items():
        if name not in ("all", "cold", "warm"):
            continue
        report = ctr_report(test.user_idx[mask], test.label[mask], logits[mask])
        suffix = "" if name == "all" else f"[{name}]"
        metrics |= {f"{m}{suffix}": round(float(report[m]), 6) for m in ("auc", "gauc", "logloss")}
    log.info("test: %s", metrics)
    line = ResultLine(
        topic="ranking",
        dataset=run_config.name,
        protocol=f"{run_config.prepare.split.method}/impressions",
        split="test",
        method="torch_rechub_din",
        variant=VERSION.replace(".", "_"),
        seed=args.seed,
        metrics=metrics,
        users=len(np.unique(test.user_idx)),
        seconds={"train": seconds},
        hardware=hardware(),
        command=typed(["python", "-m", "benchmarks.ranking_quality", *sys.argv[1:]]),
        config_sha256=hashlib.sha256(
            json.dumps(config.as_json(), sort_keys=True).encode()
        ).hexdigest(),
        data_sha256=corpus.manifest.inputs["raw"],
        code=code_version(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    append_results(args.record, line)


if __name__ == "__main__":
    main()
