"""Rejected items of every prompt: what the start model would have shown instead.

Shape letters: P prompts, C candidates per prompt, N negatives per prompt, I items, L levels.
"""

import logging
from typing import Any

import numpy as np
import numpy.typing as npt

from dasrec.core import Corpus, Ragged, generator
from dasrec.generative.data.tokens import take_rows
from dasrec.generative.decoding.trie import SidTrie
from dasrec.generative.preference.config import DpoConfig
from dasrec.generative.preference.prompts import Prompts
from dasrec.generative.retrieve import RetrieveConfig, generate_lists

log = logging.getLogger(__name__)

Int64s = npt.NDArray[np.int64]

_SCORES_PER_CHUNK = 2**24


def rejected_items(
    config: DpoConfig,
    model: Any,
    trie: SidTrie,
    corpus: Corpus,
    code_IL: npt.NDArray[np.integer[Any]],
    prompts: Prompts,
    *,
    seed: int,
    name: str,
) -> Int64s:
    """(P, N) items that are neither the target nor any other training item of the user.

    -1 where there are fewer.
    """
    own = user_items(corpus, prompts)
    if config.hard == "popularity":
        return popular_items(corpus, own, config.negatives, seed)
    search = RetrieveConfig(num_beams=config.candidates, num_items=config.candidates)
    items, _ = generate_lists(
        model, trie, prompts.tokens, search, excluded=own, progress=f"{name}: negatives"
    )
    found = items.astype(np.int64)
    if config.hard == "sibling":
        found = by_shared_prefix(found, prompts.targets, code_IL)
    return found[:, : config.negatives]


def user_items(corpus: Corpus, prompts: Prompts) -> Ragged:
    """(P rows) all training items of each prompt's user."""
    return take_rows(corpus.train_sequences, corpus.user_idx[prompts.rows])


def by_shared_prefix(
    items_PC: Int64s, target_P: Int64s, code_IL: npt.NDArray[np.integer[Any]]
) -> Int64s:
    """(P, C) the same items, those with the longest common prefix with the target first.

    Ties keep their order; missing items (-1) stay last.
    """
    same_PCL = code_IL[items_PC] == code_IL[target_P][:, None]
    shared_PC = np.logical_and.accumulate(same_PCL, axis=-1).sum(-1)
    shared_PC = np.where(items_PC < 0, -1, shared_PC)
    return np.take_along_axis(items_PC, np.argsort(-shared_PC, axis=1, kind="stable"), axis=1)


def popular_items(corpus: Corpus, own: Ragged, count: int, seed: int) -> Int64s:
    """(P, N) different items per prompt, drawn in proportion to their training interactions.

    Drawn as the highest of log(weight) + Gumbel noise, which is sampling without replacement
    (Gumbel top-k, 1903.06059).
    """
    rng = generator(seed, "popular")
    with np.errstate(divide="ignore"):
        log_weight_I = np.log(corpus.train_item_count)
    rows = len(own.starts) - 1
    chunk = max(1, _SCORES_PER_CHUNK // corpus.num_items)
    count = min(count, corpus.num_items)
    drawn = np.empty((rows, count), np.int64)
    for first in range(0, rows, chunk):
        part = np.arange(first, min(first + chunk, rows))
        key = log_weight_I + rng.gumbel(size=(len(part), corpus.num_items))
        lengths = np.diff(own.starts[part[0] : part[-1] + 2])
        mine = own.values[own.starts[part[0]] : own.starts[part[-1] + 1]]
        key[np.repeat(np.arange(len(part)), lengths), mine] = -np.inf
        best = np.argsort(-key, axis=1, kind="stable")[:, :count]
        missing = np.isneginf(np.take_along_axis(key, best, axis=1))
        drawn[part] = np.where(missing, -1, best)
    return drawn
