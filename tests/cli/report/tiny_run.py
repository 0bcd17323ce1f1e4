"""A run directory made in milliseconds: lists and SIDs drawn at random, evaluated for real."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from dasrec.core import (
    Corpus,
    Recommendations,
    SemanticIds,
    SidTable,
    load_corpus,
    load_sids,
    save_sids_payload,
    write_artifact,
    write_recommendations,
)
from dasrec.core.corpus import save_corpus_payload
from dasrec.eval.report import EvalConfig, evaluate_recommendations

HOSTILE = '</script><img src=x onerror=alert(1)> & "Tom\'s" | *bold*'
DAY = 86_400
NUM_USERS, NUM_ITEMS, EVENTS = 40, 30, 6


def make_run(
    path: Path, skills: Mapping[str, Mapping[str, float]], *, seed: int = 0, data: int = 0
) -> Path:
    """Write a run directory.

    Args:
        path: where.
        skills: by method and split how often its list holds the target (in the first three).
        seed: of lists and SIDs.
        data: another number is another log.
    """
    corpus = _corpus(path / "corpus", data)
    for name in ("das", "tiger"):
        sids = _sids(path / "sids" / name, corpus, seed)
        log = [{"epoch": e, "item/recon": 1 / (e + 1), "total": 2 / (e + 1)} for e in range(3)]
        save = partial(_save_log, "".join(json.dumps(row) + "\n" for row in log))
        inputs = {"corpus": corpus.manifest}
        write_artifact(path / "tokenizers" / name, "tokenizer", {}, inputs, save)
    for number, (method, shares) in enumerate(skills.items()):
        lists = _lists(path / "recommendations" / method, corpus, shares, 10 * seed + number)
        evaluate_recommendations(
            EvalConfig(ks=(5, 10)), method, lists, corpus, path / "reports" / method,
            sids=sids if method in ("das", "tiger") else None,
        )  # fmt: skip
    _logs(path, corpus)
    return path


def _corpus(path: Path, data: int) -> Corpus:
    rng = np.random.default_rng(data)
    rows = NUM_USERS * EVENTS
    split = np.zeros(rows, np.int8)
    split[EVENTS - 2 :: EVENTS], split[EVENTS - 1 :: EVENTS] = 1, 2
    titles = [HOSTILE, *(f"Item {i}" for i in range(1, NUM_ITEMS))]

    def payload(scratch: Path) -> None:
        save_corpus_payload(
            scratch,
            user_idx=np.repeat(np.arange(NUM_USERS), EVENTS).astype(np.int32),
            item_idx=np.concatenate(
                [rng.choice(NUM_ITEMS, EVENTS, replace=False) for _ in range(NUM_USERS)]
            ).astype(np.int32),
            timestamp=np.arange(rows) * DAY // 2,
            split=split,
            users=pl.DataFrame({"user_id": [f"<u{u}>" for u in range(NUM_USERS)]}),
            items=pl.DataFrame({"item_id": [f"i{i}" for i in range(NUM_ITEMS)], "title": titles}),
            impressions=None,
        )

    config = {"split": {"method": "leave_one_out"}, "duplicates": "drop", "catalogue": str(data)}
    write_artifact(path, "corpus", config, {}, payload)
    return load_corpus(path)


def _sids(path: Path, corpus: Corpus, seed: int) -> SemanticIds:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 4, (NUM_ITEMS, 3)).astype(np.uint16)
    vectors = rng.normal(size=(NUM_ITEMS, 2)).astype(np.float32)
    table = SidTable(codes, (4, 4, 4), vectors, tuple(vectors[:4] for _ in range(2)))
    figures = {"item/collision_rate_before": 0.25, "item/usage_0": 1.0, "item/usage_1": 0.75}
    figures |= {"item/category_purity_1": 0.5, "item/category_purity_2": 0.875}
    write_artifact(
        path, "semantic_ids", {"collisions": "extra_level"}, {"corpus": corpus.manifest},
        lambda scratch: save_sids_payload(scratch, table, None), seed=seed, metrics=figures,
    )  # fmt: skip
    return load_sids(path, corpus.manifest)


def _lists(path: Path, corpus: Corpus, shares: Mapping[str, float], seed: int) -> Path:
    rng = np.random.default_rng(seed)
    queries = np.sort(np.concatenate([corpus.queries(split) for split in ("valid", "test")]))
    items = np.stack([rng.permutation(NUM_ITEMS)[:10] for _ in queries]).astype(np.int32)
    for row, query in enumerate(queries):
        target = corpus.item_idx[query]
        items[row][items[row] == target] = np.setdiff1d(np.arange(NUM_ITEMS), items[row])[0]
        share = shares["valid" if corpus.split[query] == 1 else "test"]
        if rng.random() < share:
            items[row, rng.integers(3)] = target
    scores = -np.tile(np.arange(10), (len(queries), 1)).astype(np.float32)
    inputs = {"corpus": corpus.manifest}
    config: dict[str, object] = {"num_beams": 10, "exclude_seen": "never"}
    write_recommendations(path, config, inputs, Recommendations(queries, items, scores), seed=seed)
    return path


def _save_log(text: str, scratch: Path) -> None:
    (scratch / "metrics.jsonl").write_text(text)


def _logs(path: Path, corpus: Corpus) -> None:
    inputs = {"corpus": corpus.manifest}
    log = [
        {"loss": 3.0, "epoch": 1.0, "step": 5, "learning_rate": 0.1},
        {"eval_ndcg@10": 0.25, "epoch": 1.0, "step": 5},
        {"loss": 2.0, "epoch": 2.0, "step": 10, "learning_rate": 0.0},
        {"eval_ndcg@10": 0.5, "epoch": 2.0, "step": 10},
        {"train_runtime": 9.0, "train_loss": 2.5, "epoch": 2.0, "step": 10},
    ]
    write_artifact(
        path / "bases" / "das", "base_model", {}, inputs, lambda _: None, metrics={"log": log}
    )
    test = {"all": {"auc": 0.75, "gauc": 0.625, "logloss": 0.5, "ece": None}}
    curve = [{"gauc": 0.5}, {"gauc": 0.625}]
    write_artifact(
        path / "rankers" / "das", "ranking_model", {}, inputs, lambda _: None,
        metrics={"test": test, "history": curve},
    )  # fmt: skip
    results = {"dataset": "tiny <data>", "synthetic": True, "hardware": "2 CPU cores"}
    (path / "results.json").write_text(json.dumps(results))
    (path / "seconds.json").write_text(json.dumps({"corpus": 0.5, "bases/das": 90.0}))
