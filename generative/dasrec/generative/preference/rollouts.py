"""Groups of existing items that the model proposes for training prompts.

Shape letters: B prompts, T prompt tokens, G items of a group, E excluded items (padded).
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dasrec.core import Corpus, Ragged, derive_seed
from dasrec.generative.decoding.noise import child_key
from dasrec.generative.decoding.sampling import sample_items
from dasrec.generative.decoding.search import constrained_beam_search
from dasrec.generative.decoding.trie import SidTrie
from dasrec.generative.preference.config import GrpoConfig
from dasrec.generative.preference.prompts import Prompts
from dasrec.generative.retrieve import padded_items


class PromptBatch(NamedTuple):
    """Some prompts, as tensors."""

    input_ids: Tensor
    """(B, T), padded on the left."""
    attention_mask: Tensor
    """(B, T)"""
    targets: Tensor
    """(B,) the item that came next."""
    queries: Tensor
    """(B,) interaction row of each target."""
    excluded: Tensor | None
    """(B, E) items never to propose, padded with -1."""


class GrpoCollator:
    """Numbers of prompts -> tensors, cut from flat arrays."""

    packed = False

    def __init__(self, prompts: Prompts, corpus: Corpus) -> None:
        """Remember prompts, and the items seen before them where lists leave these out.

        What is left out of lists is left out of proposals, so that the model learns to rank what
        it will be asked to rank.
        """
        self.prompts = prompts
        self.seen: Ragged | None = None
        if corpus.excludes_seen("as_in_training"):
            self.seen = corpus.histories(prompts.rows, len(corpus.item_idx))

    def __call__(self, numbers: list[np.int64]) -> dict[str, Tensor | None]:
        """The fields of `PromptBatch`."""
        chosen = np.array(numbers)
        input_ids, attention_mask = self.prompts.padded(chosen)
        return PromptBatch(
            input_ids,
            attention_mask,
            torch.from_numpy(self.prompts.targets[chosen]),
            torch.from_numpy(self.prompts.rows[chosen]),
            None if self.seen is None else padded_items(self.seen, chosen),
        )._asdict()


def propose(
    config: GrpoConfig, model: Any, trie: SidTrie, batch: PromptBatch, seed: int, step: int
) -> Tensor:
    """(B, G) different items per prompt, the most probable first, -1 where there are fewer.

    One constrained search per prompt: all are existing items, and no two are the same.

    Args:
        config: how many, and how.
        model: in eval mode.
        trie: the catalogue.
        batch: the prompts.
        seed: of the draws.
        step: the draws depend on seed, step and prompts alone, so a resumed run repeats them.
    """
    count = min(config.group_size, trie.num_items)
    if config.rollout == "sample":
        items_BG = _drawn(model, trie, batch, count, derive_seed(seed, "rollouts", step))
    else:
        items_BG = constrained_beam_search(
            model,
            batch.input_ids,
            batch.attention_mask,
            trie,
            num_beams=count,
            num_items=count,
            excluded=batch.excluded,
            certify=False,
        ).items
    if config.add_target:
        items_BG = with_target(items_BG, batch.targets)
    return items_BG


def _drawn(model: Any, trie: SidTrie, batch: PromptBatch, count: int, seed: int) -> Tensor:
    """(B, G) draws without replacement, in the order that lists have."""
    drawn = sample_items(
        model,
        batch.input_ids,
        batch.attention_mask,
        trie,
        num_items=count,
        seeds=child_key(torch.full_like(batch.queries, seed), batch.queries),
        excluded=batch.excluded,
    )
    return drawn.items.gather(1, drawn.scores.argsort(dim=1, descending=True, stable=True))


def with_target(items_BG: Tensor, target_B: Tensor) -> Tensor:
    """(B, G) the same items, the target in the last place of groups that do not hold it."""
    missing_B = ~(items_BG == target_B.unsqueeze(1)).any(1)
    last_B = torch.where(missing_B, target_B, items_BG[:, -1])
    return torch.cat([items_BG[:, :-1], last_B.unsqueeze(1)], dim=1)
