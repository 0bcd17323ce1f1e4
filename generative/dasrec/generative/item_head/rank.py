"""Stage: beam lists and an "item_head" -> Recommendations by both.

Shape letters: Q queries, B queries of a block, I items, W items of a beam list.
"""

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dasrec.core import (
    SPLITS,
    Corpus,
    Manifest,
    Recommendations,
    SemanticIds,
    check_free,
    load_recommendations,
    write_recommendations,
)
from dasrec.core.catalogue_lists import MAX_SCORES, Floats, recommend_blocks
from dasrec.core.corpus import ExcludeSeen, Int64s
from dasrec.eval.ranking_metrics import ndcg_at_k
from dasrec.generative.item_head.config import ItemRankConfig
from dasrec.generative.item_head.model import ItemHead
from dasrec.generative.item_head.states import query_states
from dasrec.generative.item_head.train import load_item_head, target_rank
from dasrec.generative.model.load import load_generator

log = logging.getLogger(__name__)


def rank_items(
    config: ItemRankConfig,
    head_path: Path,
    generator_path: Path,
    lists_path: Path,
    corpus: Corpus,
    sids: SemanticIds,
    out: Path,
    *,
    seed: int = 0,
    replace: bool = False,
) -> Manifest:
    """Order the catalogue by the beam's log-probability plus weight x the head's logit.

    An item that the beam did not reach counts as probable as the last one that it did, so the
    head brings in items of its own, cold ones too (LIGER, arXiv 2411.18814).

    Args:
        config: weight and width.
        head_path: an "item_head" artifact.
        generator_path: the generator that the head was trained for.
        lists_path: the generator's lists; what they leave out as seen is left out here.
        corpus: whose queries are answered; its validation targets choose the weight.
        sids: of its items.
        out: directory of the new Recommendations artifact.
        seed: kept in the manifest; nothing here is random.
        replace: swap an artifact that is already at `out`.

    Raises:
        FileExistsError: `out` exists and `replace` is false.
        ValueError: artifacts that do not belong together, or lists without validation queries to
            choose the weight on.
    """
    check_free(out, replace)
    began = time.perf_counter()
    frozen = load_generator(generator_path, sids)
    head, head_manifest = load_item_head(head_path, frozen, corpus, sids)
    lists = load_recommendations(lists_path, corpus)
    assert lists.manifest is not None
    if lists.manifest.inputs.get("generator") != frozen.manifest.fingerprint:
        raise ValueError(f"{lists_path}: these lists are not of {generator_path}; retrieve again")
    seen_barred = bool(lists.manifest.metrics["seen_excluded"])
    use_user_sid = bool(lists.manifest.config["use_user_sid"])
    states_QH = query_states(frozen, corpus, sids, lists.queries, use_user_sid=use_user_sid)
    joint = _Joint(lists, head, states_QH)
    weight, metrics = _choose_weight(config, joint, corpus, seen_barred, lists_path)

    def score(queries: Int64s) -> Floats:
        rows = np.searchsorted(lists.queries, queries)
        scores: Floats = (joint.beam(rows) + weight * joint.logits(rows)).numpy()
        return scores

    rule: ExcludeSeen = "always" if seen_barred else "never"
    ranked = recommend_blocks(corpus, config.width, rule, score, lists.queries)
    found = _share_from_head(ranked, lists)
    return write_recommendations(
        out,
        config.as_json(),
        {
            "corpus": corpus.manifest,
            "semantic_ids": sids.manifest,
            "generator": frozen.manifest,
            "item_head": head_manifest,
            "lists": lists.manifest,
        },
        ranked,
        seed=seed,
        metrics={
            **metrics,
            "seen_excluded": seen_barred,
            "share_from_head": found,
            "seconds": round(time.perf_counter() - began, 2),
        },
        replace=replace,
    )


class _Joint:
    """The two scores of the catalogue for the queries of some lists."""

    def __init__(self, lists: Recommendations, head: ItemHead, states_QH: Tensor) -> None:
        self.lists, self.num_items = lists, len(head.own_IH)
        with torch.inference_mode():
            self.vectors_HI = head.vectors().T
            self.queries_QH = head(states_QH)

    def logits(self, rows: Int64s) -> Tensor:
        """(B, I) of the head."""
        with torch.inference_mode():
            logits_BI: Tensor = self.queries_QH[torch.from_numpy(rows)] @ self.vectors_HI
        return logits_BI

    def beam(self, rows: Int64s) -> Tensor:
        """(B, I) log-probabilities of the beam; its last one where it did not come."""
        items_BW, scores_BW = self.lists.item_idx[rows], self.lists.score[rows]
        real_BW = items_BW >= 0
        last_B = np.where(real_BW, scores_BW, np.inf).min(1, initial=np.inf)
        last_B = np.where(np.isfinite(last_B), last_B, 0).astype(np.float32)
        all_BI = np.repeat(last_B[:, None], self.num_items, axis=1)
        row, column = np.nonzero(real_BW)
        all_BI[row, items_BW[row, column]] = scores_BW[row, column]
        return torch.from_numpy(all_BI)


def _choose_weight(
    config: ItemRankConfig, joint: _Joint, corpus: Corpus, seen_barred: bool, lists_path: Path
) -> tuple[float, dict[str, Any]]:
    """The weight, and what validation says about each."""
    if config.weight is not None:
        return config.weight, {"weight": config.weight}
    queries = joint.lists.queries
    valid = np.flatnonzero(corpus.split[queries] == SPLITS["valid"])
    if not len(valid):
        raise ValueError(
            f"item_head.rank.weight: {lists_path} has no validation queries to choose it on; "
            "retrieve for the valid split too, or set the weight"
        )
    sums = np.zeros(len(config.weight_grid))
    size = max(1, MAX_SCORES // joint.num_items)
    for start in range(0, len(valid), size):
        rows = valid[start : start + size]
        beam_BI, logits_BI = joint.beam(rows), joint.logits(rows)
        for place, weight in enumerate(config.weight_grid):
            scores_BI = torch.add(beam_BI, logits_BI, alpha=weight)
            rank = target_rank(scores_BI, corpus, queries[rows], barred=seen_barred)
            sums[place] += float(ndcg_at_k(rank, 10).sum())
    means = (sums / len(valid)).tolist()
    grid = {f"{weight:g}": mean for weight, mean in zip(config.weight_grid, means, strict=True)}
    best = config.weight_grid[int(np.argmax(sums))]
    log.info("item head: weight %g  valid ndcg@10 %s", best, grid)
    return best, {"weight": best, "valid_ndcg@10": grid}


def _share_from_head(ranked: Recommendations, lists: Recommendations) -> float:
    """Share of the ranked items that the beam had not reached."""
    rows = np.arange(len(ranked.queries), dtype=np.int64)[:, None] << 32
    ours, theirs = ranked.item_idx >= 0, lists.item_idx >= 0
    known = np.isin((rows + ranked.item_idx)[ours], (rows + lists.item_idx)[theirs])
    return float(1 - known.mean()) if ours.any() else 0.0
