"""What has to hold before a time means anything: right lists, and nothing but allowed items.

Shape letters: B prompts, T their tokens, I items, L levels, k items of a list, V vocabulary.
"""

import dataclasses
from typing import Any

import numpy as np
import torch
from benchmarks.decoding_measure import TOLERANCE
from benchmarks.decoding_peers import OURS, Problem, contender, problem_of
from benchmarks.decoding_world import Case, Codes
from torch import Tensor

TINY = Case(
    codes=(64,) * 3, items=20_000, text_tokens=50, beams=50, history=20, batch=500, width=64,
    layers=1,
)  # fmt: skip
SMALL = Case(
    codes=(12,) * 3, items=500, text_tokens=50, beams=500, history=20, batch=4, width=64, layers=2
)
ALLOWED_SHARE = 0.3
RESCORED = 20
"""Lists of each batch whose scores are computed anew by plain forwards."""


def generated_items(case: Case, number: int) -> dict[str, Any]:
    """Faults among `number` generated items; every second batch is filtered.

    A filtered batch may have three tenths of the items and none of the 20 that each user got
    without a filter.
    """
    counts = dict.fromkeys(
        ("items", "not_in_catalogue", "repeated", "forbidden", "missing", "wrong_scores"), 0
    )
    allowed = torch.from_numpy(np.random.default_rng(0).random(case.items) < ALLOWED_SHARE)
    seed = 0
    while counts["items"] < number:
        problem = problem_of(case, seed)
        run = contender(problem, "full")
        excluded = run(problem.input_ids, problem.mask).items[:, :20]
        if seed % 2:
            run = contender(problem, "full", allowed=allowed, excluded=excluded)
        result = run(problem.input_ids, problem.mask)
        items, real = result.items, result.items >= 0
        counts["items"] += int(real.sum())
        counts["missing"] += int((~real).sum()) + int((result.num_valid != real.sum(1)).sum())
        counts["not_in_catalogue"] += int((items[real] >= case.items).sum())
        counts["repeated"] += int((items.sort(1).values.diff(dim=1) == 0).sum())
        if seed % 2:
            counts["forbidden"] += int((~allowed[items[real]]).sum())
            counts["forbidden"] += int((items.unsqueeze(2) == excluded.unsqueeze(1)).sum())
        rows = slice(0, RESCORED)
        again = score_pairs(problem, "full", items[rows])
        counts["wrong_scores"] += int(((again - result.scores[rows]).abs() > TOLERANCE).sum())
        seed += 1
    faults = sum(value for name, value in counts.items() if name != "items")
    return {
        "ours": counts,
        "same_result": faults == 0,
        "compared": f"every item; scores of {RESCORED} lists of each of {seed} batches against"
        " plain forwards",
    }


def exhaustive_lists(case: Case) -> dict[str, Any]:
    """Lists of beams as wide as the catalogue against the scores of all items, padded prompts."""
    problem = problem_of(case)
    mask = problem.mask.clone()
    for row in range(len(mask)):
        mask[row, : 3 * row] = 0
    problem = dataclasses.replace(problem, mask=mask)
    differences, same = {}, True
    for normalize in OURS:
        result = contender(problem, normalize)(problem.input_ids, mask)
        everything = torch.arange(case.items).expand(len(mask), -1)
        score_BI = score_pairs(problem, normalize, everything)
        best = score_BI.sort(dim=1, descending=True).values
        own = score_BI.gather(1, result.items)
        difference = max(
            float((result.scores - best).abs().max()), float((result.scores - own).abs().max())
        )
        differences[normalize] = float(f"{difference:.2g}")
        same &= difference < TOLERANCE and bool((result.num_valid == case.items).all())
    return {
        "ours": {"largest_score_difference": differences},
        "same_result": same,
        "compared": f"all {case.items} items of {len(mask)} prompts, in order, against plain"
        " forwards of prompt and SID",
    }


def score_pairs(problem: Problem, normalize: str, item_Bk: Tensor) -> Tensor:
    """(B, k) log-probabilities of items after the first B prompts, by forwards without a cache."""
    catalogue, (users, number) = problem.catalogue, item_Bk.shape
    levels = catalogue.token_IL.shape[1]
    token_RL = torch.from_numpy(catalogue.token_IL[item_Bk.clamp(min=0).flatten().numpy()])
    ids = problem.input_ids[:users].repeat_interleave(number, 0)
    mask = problem.mask[:users].repeat_interleave(number, 0)
    total_R = torch.zeros(len(ids))
    for chunk in torch.arange(len(ids)).split(2_000):
        logits_RLV = _logits(problem, ids[chunk], mask[chunk], token_RL[chunk])
        for level in range(levels):
            logits_RV = logits_RLV[:, level]
            if normalize != "full":
                counted = _counted(problem, normalize, token_RL[chunk, :level], level)
                logits_RV = logits_RV.masked_fill(~counted, float("-inf"))
            picked = logits_RV.log_softmax(-1).gather(1, token_RL[chunk, level, None])
            total_R[chunk] += picked.squeeze(1)
    return total_R.view(users, number).masked_fill(item_Bk < 0, float("-inf"))


def _logits(problem: Problem, ids: Tensor, mask: Tensor, token_RL: Tensor) -> Tensor:
    """(R, L, V) float32 logits before each code."""
    levels = token_RL.shape[1]
    whole = torch.cat([ids, token_RL], 1)
    seen = torch.cat([mask, torch.ones_like(token_RL)], 1)
    with torch.no_grad():
        logits: Tensor = problem.model(
            input_ids=whole,
            attention_mask=seen,
            position_ids=(seen.cumsum(1) - 1).clamp(min=0),
            use_cache=False,
        ).logits
    return logits[:, -levels - 1 : -1].float()


def _counted(problem: Problem, normalize: str, prefix_RS: Tensor, level: int) -> Tensor:
    """(R or 1, V) tokens that a code's probability is over."""
    vocabulary = problem.model.config.vocab_size
    if normalize == "level":
        counted = torch.zeros(1, vocabulary, dtype=torch.bool)
        counted[:, problem.catalogue.trie.level_token_ids[level]] = True
        return counted
    token_IL: Codes = problem.catalogue.token_IL
    counted = torch.zeros(len(prefix_RS), vocabulary, dtype=torch.bool)
    for row, prefix in enumerate(prefix_RS.numpy()):
        follows = (token_IL[:, :level] == prefix).all(1)
        counted[row, torch.from_numpy(token_IL[follows, level])] = True
    return counted
