"""Log-probabilities of candidate items, differentiable, under the normaliser of the search.

A code is classified among its level's K codes, as in SFT and in the beam search, so what alignment
raises is what decoding ranks by. The candidates of a prompt share its key-value cache: the prompt
runs once per group instead of once per candidate.

Shape letters: B prompts, T prompt tokens, G candidates per prompt, L levels, K codes of a level,
I items, H hidden width, N = B G.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from dasrec.core import SemanticIds
from dasrec.generative.decoding.paths import item_paths
from dasrec.generative.decoding.prompts import prompt_positions
from dasrec.generative.decoding.trie import SidTrie
from dasrec.generative.model.logits import rescale
from dasrec.generative.training.loss import OutputRows


class CandidateScorer:
    """Logits, log-probabilities and legal mass of candidate items."""

    def __init__(self, trie: SidTrie, sids: SemanticIds) -> None:
        """Look up codes and trie nodes of every item."""
        self.trie = trie
        self.levels = trie.level_token_ids
        self.tokens = torch.cat(self.levels)
        ends = list(accumulate(trie.level_sizes, initial=0))
        self.spans = [slice(*ends_of) for ends_of in pairwise(ends)]
        device = trie.device
        self.code_IL = torch.from_numpy(np.asarray(sids.items.codes).astype(np.int64)).to(device)
        self.node_IL = item_paths(trie, torch.arange(trie.num_items, device=device)).node_NL

    def logits(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, items_BG: Tensor
    ) -> list[Tensor]:
        """Per level (B, G, K) float32 logits along each candidate's own SID.

        The model runs without dropout whatever its mode, for it is compared with itself: with the
        reference, and with the model that made the proposals.

        Args:
            model: causal LM, plain or wrapped by PEFT.
            input_ids: (B, T) prompts, padded on the left.
            attention_mask: (B, T).
            items_BG: candidates; -1 (no candidate) is scored as item 0.
        """
        was_training = model.training
        model.eval()
        states = self._states(model, input_ids, attention_mask, items_BG.clamp(min=0))
        rows, config = OutputRows(model.get_output_embeddings(), self.tokens), model.config
        logits = [
            rescale(rows.logits(state.flatten(0, 1), span).float(), config.get_text_config())
            for state, span in zip(states, self.spans, strict=True)
        ]
        logits = [
            level.unflatten(0, state.shape[:2]) for level, state in zip(logits, states, strict=True)
        ]
        model.train(was_training)
        return [level.expand(-1, items_BG.shape[1], -1) for level in logits]

    def _states(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, items_BG: Tensor
    ) -> list[Tensor]:
        """(B, 1, H) after the prompt, then per further level (B, G, H)."""
        batch, group = items_BG.shape
        cache: Any = DynamicCache(config=model.config.get_text_config())
        options = {
            "past_key_values": cache,
            "use_cache": True,
            "output_hidden_states": True,
            "logits_to_keep": 1,
        }
        outputs = model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=prompt_positions(attention_mask),
            **options,
        )
        states = [outputs.hidden_states[-1][:, -1:]]
        steps = self.trie.num_levels - 1
        if not steps:
            return states
        codes_NL = self.code_IL[items_BG].flatten(0, 1)
        token_NS = torch.stack([self.levels[s][codes_NL[:, s]] for s in range(steps)], dim=1)
        row_N = torch.arange(batch, device=items_BG.device).repeat_interleave(group)
        cache.reorder_cache(row_N)  # also repeats; gradients flow through it
        mask_NT = attention_mask[row_N]
        outputs = model(
            input_ids=token_NS,
            attention_mask=torch.cat([mask_NT, mask_NT.new_ones(len(row_N), steps)], 1),
            position_ids=mask_NT.sum(1, keepdim=True) + torch.arange(steps, device=row_N.device),
            **options,
        )
        hidden = outputs.hidden_states[-1].view(batch, group, steps, -1)
        return [*states, *hidden.unbind(2)]

    def log_probs(self, logits: list[Tensor], items_BG: Tensor) -> Tensor:
        """(B, G, L) log-probability of each code of the candidates."""
        codes_BGL = self.code_IL[items_BG.clamp(min=0)]
        parts = [
            level.log_softmax(-1).gather(-1, codes_BGL[..., number, None]).squeeze(-1)
            for number, level in enumerate(logits)
        ]
        return torch.stack(parts, dim=-1)

    @torch.no_grad()
    def legal_mass(self, logits: list[Tensor], items_BG: Tensor) -> Tensor:
        """(B, G, L) probability of the codes that lead to an existing item."""
        nodes_BGL = self.node_IL[items_BG.clamp(min=0)]
        parts = []
        for number, level in enumerate(logits):
            probs = level.detach().softmax(-1)
            before_BG = nodes_BGL[..., number - 1] if number else torch.zeros_like(items_BG)
            children = self.trie.children(number, before_BG.flatten())
            probs = probs.flatten(0, 1)[children.row_C, children.code_C]
            mass = torch.zeros(items_BG.numel(), device=probs.device)
            parts.append(mass.index_add(0, children.row_C, probs).view_as(items_BG))
        return torch.stack(parts, dim=-1)


def trained_weights(model: Any) -> dict[str, Tensor]:
    """A copy of everything that trains."""
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


@contextmanager
def holding(model: Any, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Run the model with other values of its trained parameters: the reference model.

    A second peft adapter would do for LoRA, but trl and peft copy adapters by names that leave out
    the trained token rows.
    """
    parameters = {name: model.get_parameter(name) for name in weights}
    kept = {name: parameter.data for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        parameter.data = weights[name]
    try:
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.data = kept[name]
