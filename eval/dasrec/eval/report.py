"""The evaluate stage: Recommendations and the Corpus they were made for -> an EvalReport."""

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from pydantic import field_validator

from dasrec.core.artifacts import Manifest, load_manifest, write_artifact
from dasrec.core.config import StageConfig
from dasrec.core.corpus import SPLITS, Corpus, Int64s, Split
from dasrec.core.embeddings import Embeddings
from dasrec.core.recommendations import Recommendations, load_recommendations
from dasrec.core.semantic_ids import SemanticIds
from dasrec.eval.primitive import expected_ranks
from dasrec.eval.protocol import PROTOCOL, Protocol, load_protocol, read_protocol
from dasrec.eval.ranking_metrics import Ints, metrics_of_ranks, rank_of_target
from dasrec.eval.scorecard import Backdrop, Scorecard, score_lists
from dasrec.eval.sid_level import sid_index, sid_rank_of_target, target_collision_rate
from dasrec.eval.slices import SLICE_GROUPS, Bools, SliceGroup, slice_masks

log = logging.getLogger(__name__)

Metrics = dict[str, float]
EVAL_SPLITS: tuple[Split, ...] = ("valid", "test")


class EvalConfig(StageConfig):
    """What the evaluate stage reports."""

    ks: tuple[int, ...] = (5, 10, 20)
    """Cut-offs of the ranking metrics, ascending."""

    slices: tuple[SliceGroup, ...] = tuple(SLICE_GROUPS)
    """Groups of query slices to report beside all queries, see `dasrec.eval.slices`."""

    @field_validator("ks")
    @classmethod
    def _ascending(cls, ks: tuple[int, ...]) -> tuple[int, ...]:
        if not ks or ks[0] < 1 or any(a >= b for a, b in pairwise(ks)):
            raise ValueError(f"expected ascending cut-offs from 1, got {list(ks)}")
        return ks


@dataclass(frozen=True)
class EvalReport:
    """What `evaluate_recommendations` found out about one method."""

    manifest: Manifest
    method: str
    splits: dict[str, dict[str, Metrics]]
    """{split: {slice: {metric: value}}}; every slice has "queries" and "users" (how many)."""
    per_query: pl.DataFrame
    """One row a query: query, user_idx, split, rank (null = not in the list), expected_rank (in a
    primitive's list, see `dasrec.eval.primitive`), popularity@K, novelty@K and, with embeddings,
    diversity@K (float32, null where the list has none), and one boolean column `slice.<name>` for
    every slice."""
    protocol: Protocol | None = None
    """How the lists were come by; None in reports from before there were protocols."""


def evaluate_recommendations(
    config: EvalConfig,
    method: str,
    recommendations_path: str | Path,
    corpus: Corpus,
    out: str | Path,
    *,
    sids: SemanticIds | None = None,
    embeddings: Embeddings | None = None,
    seed: int = 0,
    replace: bool = False,
) -> Manifest:
    """Compare lists with targets, per split and slice, at item level.

    Args:
        config: cut-offs and slices.
        method: name of the method in tables, e.g. "das".
        recommendations_path: the lists; queries of valid and test may be mixed.
        corpus: what the lists were made from.
        out: directory of the new "eval_report" artifact: report.json, per_query.parquet and
            protocol.json.
        sids: where given, adds how many targets share their SID (`target_collision_rate`) and
            the slice `sid_level`, which counts hits on SIDs instead of items.
        embeddings: where given, adds the diversity of the lists by the items' vectors.
        seed: kept in the manifest; nothing here is random.
        replace: overwrite `out`.

    Raises:
        ValueError: lists made from another corpus or from other SIDs, shorter than the largest
            cut-off, or for a training interaction.
    """
    began = time.perf_counter()
    lists = load_recommendations(recommendations_path, corpus)
    assert lists.manifest is not None
    _check(config, lists, corpus, sids)
    vectors = None if embeddings is None else embeddings.items
    splits: dict[str, dict[str, Metrics]] = {}
    tables: list[pl.DataFrame] = []
    for split in EVAL_SPLITS:
        part = _part(split, lists, corpus, config)
        if len(part.queries):
            expected = expected_ranks(corpus, part.queries)
            profiles = corpus.histories(part.queries, len(corpus.item_idx))
            backdrop = Backdrop(corpus.train_item_count, profiles, vectors, expected)
            ranks = rank_of_target(part.items, part.targets)
            card = score_lists(part.items, ranks, config.ks, backdrop)
            splits[split] = _report(config, card, part, corpus, sids)
            tables.append(_per_query(part, ranks, expected, card))
    per_query = pl.concat(tables)
    protocol = read_protocol(corpus, lists.manifest)
    inputs = {"corpus": corpus.manifest, "recommendations": lists.manifest}
    if sids is not None:
        inputs["semantic_ids"] = sids.manifest
    if embeddings is not None:
        inputs["embeddings"] = embeddings.manifest

    def payload(scratch: Path) -> None:
        (scratch / "report.json").write_text(json.dumps(splits, indent=2) + "\n")
        (scratch / PROTOCOL).write_text(json.dumps(protocol.as_json(), indent=2) + "\n")
        per_query.write_parquet(scratch / "per_query.parquet")

    return write_artifact(
        out,
        "eval_report",
        {**config.as_json(), "method": method},
        inputs,
        payload,
        seed=seed,
        metrics={"seconds": round(time.perf_counter() - began, 3)},
        replace=replace,
    )


def load_report(path: str | Path) -> EvalReport:
    """Open an EvalReport artifact."""
    manifest = load_manifest(path, "eval_report")
    return EvalReport(
        manifest,
        str(manifest.config["method"]),
        json.loads((Path(path) / "report.json").read_text()),
        pl.read_parquet(Path(path) / "per_query.parquet"),
        load_protocol(path),
    )


def _check(
    config: EvalConfig, lists: Recommendations, corpus: Corpus, sids: SemanticIds | None
) -> None:
    assert lists.manifest is not None
    if not len(lists.queries):
        raise ValueError("evaluate: the recommendations hold no query")
    known = np.concatenate([corpus.queries(split) for split in EVAL_SPLITS])
    unknown = ~np.isin(lists.queries, known)
    if unknown.any():
        raise ValueError(
            f"evaluate: {int(unknown.sum())} lists are for rows that are no valid or test query, "
            f"the first for row {int(lists.queries[unknown][0])}; see Corpus.queries"
        )
    width = lists.item_idx.shape[1]
    if width < min(config.ks[-1], corpus.num_items):
        raise ValueError(
            f"evaluate: lists hold {width} items at most, but eval.ks asks for "
            f"{config.ks[-1]}; make longer lists or lower eval.ks"
        )
    made_from = lists.manifest.inputs.get("semantic_ids")
    if sids is not None and made_from not in (None, sids.fingerprint):
        raise ValueError(
            f"evaluate: the lists were made from sids {made_from}, but sids {sids.fingerprint} "
            "were given; give those, or make the lists again"
        )


class _Part(NamedTuple):
    """The lists of one split; Q queries, W list width."""

    split: Split
    queries: Int64s  # (Q,)
    users: Ints  # (Q,)
    targets: Ints  # (Q,)
    items: Ints  # (Q, W)
    masks: Mapping[str, Bools]  # slice -> (Q,)


def _part(split: Split, lists: Recommendations, corpus: Corpus, config: EvalConfig) -> _Part:
    chosen = np.asarray(corpus.split[lists.queries] == SPLITS[split])
    queries = lists.queries[chosen]
    return _Part(
        split,
        queries,
        np.asarray(corpus.user_idx[queries]),
        np.asarray(corpus.item_idx[queries]),
        lists.item_idx[chosen],
        slice_masks(corpus, queries, config.slices),
    )


def _report(
    config: EvalConfig, card: Scorecard, part: _Part, corpus: Corpus, sids: SemanticIds | None
) -> dict[str, Metrics]:
    """{slice: metrics} of one split."""
    whole = np.ones(len(part.queries), np.bool_)
    result: dict[str, Metrics] = {
        name: {"queries": int(mask.sum()), "users": len(np.unique(part.users[mask]))}
        for name, mask in {"all": whole, **part.masks}.items()
    }
    result["all"] |= card.overall
    for name, mask in part.masks.items():
        if mask.any():
            result[name] |= {key: float(v[mask].mean()) for key, v in card.accuracy.items()}
    missing = len(corpus.queries(part.split)) - len(part.queries)
    if missing:
        log.warning("evaluate: %d queries of %s have no list: left out", missing, part.split)
        result["all"]["missing_queries"] = missing
    if sids is not None:
        sid_of_item = sid_index(sids.items.codes)
        rate = target_collision_rate(sid_of_item, part.targets)
        result["all"]["target_collision_rate"] = rate
        ranks = sid_rank_of_target(part.items, part.targets, sid_of_item)
        counts = {name: result["all"][name] for name in ("queries", "users")}
        result["sid_level"] = counts | metrics_of_ranks(ranks, config.ks)
    return result


def _per_query(part: _Part, ranks: Int64s, expected: Int64s, card: Scorecard) -> pl.DataFrame:
    table = pl.DataFrame(
        {
            "query": part.queries,
            "user_idx": part.users,
            "rank": ranks.astype(np.int32),
            "expected_rank": expected.astype(np.int32),
            **{name: values.astype(np.float32) for name, values in card.lists.items()},
            **{f"slice.{name}": mask for name, mask in part.masks.items()},
        }
    )
    return table.with_columns(
        pl.when(pl.col("rank") > 0).then(pl.col("rank")),
        pl.col(list(card.lists)).fill_nan(None),
        pl.lit(part.split).alias("split"),
    )


def split_key(key: str) -> tuple[str, str]:
    """Metric and slice of a key; the slice is "all" where the key names none.

    >>> split_key("recall@10[tie_free]"), split_key("gauc")
    (('recall@10', 'tie_free'), ('gauc', 'all'))
    """
    name, _, rest = key.partition("[")
    return name, rest.removesuffix("]") or "all"
