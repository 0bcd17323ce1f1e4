"""Catalogues, models and prompts of the decoding benchmark.

Shape letters: I items, L levels, B prompts, T tokens of a prompt, V vocabulary.
"""

from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from dasrec.generative import SidTrie

Codes = npt.NDArray[np.int64]

INSTRUCTION = 16
"""Text tokens at the start of a prompt; items follow."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One search problem."""

    codes: tuple[int, ...] = (256,) * 4
    """Codebook size of each level."""
    items: int = 100_000
    text_tokens: int = 3_000
    """Vocabulary beside the codes: 3,000 is a trimmed one, 151,936 that of Qwen3."""
    beams: int = 20
    history: int = 200
    """T"""
    batch: int = 2
    """B"""
    width: int = 256
    """Of the model."""
    layers: int = 4

    def as_json(self) -> dict[str, Any]:
        """The fields, the codes as e.g. "4x256"."""
        return asdict(self) | {"codes": f"{len(self.codes)}x{self.codes[0]}"}


def random_codes(items: int, sizes: tuple[int, ...], seed: int = 0) -> Codes:
    """(I, L) different SIDs, some codes far more frequent than others below every prefix.

    The rank of a code is drawn from 1 / rank^0.7, as uneven as residual codes tend to be; which
    code has which rank differs from prefix to prefix.
    """
    rng = np.random.default_rng(seed)
    found = np.empty(0, np.int64)
    while len(found) < items:
        drawn = 4 * (items - len(found)) // 3 + 1_000
        prefix = np.zeros(drawn, np.int64)
        for size in sizes:
            share = np.arange(1, size + 1) ** -0.7
            rank = np.searchsorted((share / share.sum()).cumsum(), rng.random(drawn))
            shift = (prefix * 2_654_435_761 >> 7) % size
            prefix = prefix * size + (rank.clip(max=size - 1) + shift) % size
        found = np.union1d(found, prefix)
    found = rng.permutation(found)[:items]
    levels = []
    for size in reversed(sizes):
        levels.append(found % size)
        found = found // size
    return np.stack(levels[::-1], axis=1)


def level_tokens(sizes: tuple[int, ...], text_tokens: int) -> list[npt.NDArray[np.int64]]:
    """Per level the vocabulary id of each code: behind the text, level after level."""
    ends = np.cumsum([text_tokens, *sizes])
    return [np.arange(low, high) for low, high in pairwise(ends)]


@lru_cache(maxsize=1)
def model_of(sizes: tuple[int, ...], text_tokens: int, width: int, layers: int) -> Any:
    """A Qwen3 from its config, with weights large enough for logits that differ (about 2.5)."""
    config = Qwen3Config(
        vocab_size=text_tokens + sum(sizes),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64),
        num_key_value_heads=max(1, width // 128),
        head_dim=min(64, width),
        max_position_embeddings=4_096,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(8)
        for weight in model.model.layers.parameters():
            if weight.ndim == 2:
                weight.mul_(1.5)
    return model


@dataclass(frozen=True, eq=False)
class Catalogue:
    """The items of a case."""

    token_IL: Codes
    """Vocabulary ids of every item's SID."""
    trie: SidTrie
    python_tries: dict[str, dict[Any, Any]] = field(default_factory=dict)
    """Of the peers, by name; made where a case asks for them."""


@lru_cache(maxsize=1)
def catalogue(items: int, sizes: tuple[int, ...], text_tokens: int) -> Catalogue:
    """Random items of a case."""
    codes_IL = random_codes(items, sizes)
    tokens = level_tokens(sizes, text_tokens)
    first_L = np.array([ids[0] for ids in tokens])
    return Catalogue(codes_IL + first_L, SidTrie.from_sids(codes_IL, sizes, tokens))


def prompts(case: Case, token_IL: Codes, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(B, T) token ids and mask: an instruction, then the SIDs of random items."""
    rng = np.random.default_rng(seed)
    rows = -(-(case.history - INSTRUCTION) // len(case.codes))
    items = token_IL[rng.integers(0, len(token_IL), (case.batch, rows))]
    text = rng.integers(1, case.text_tokens, (case.batch, INSTRUCTION))
    ids = np.concatenate([text, items.reshape(case.batch, -1)], axis=1)[:, -case.history :]
    return torch.from_numpy(ids), torch.ones(ids.shape, dtype=torch.int64)
