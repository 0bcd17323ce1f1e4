"""First values of the new tokens' rows, in the embedding and in the output layer.

`text_mean`: every row is drawn around the mean of the text rows, with their spread.
`codebook`: the rows of a level are the tokenizer's codewords, turned into the model's width; codes
    that were near each other in the tokenizer start near each other in the model.
`item_text`: the row of a code is the mean of the rows of the title tokens of its items, as the LM
    knows them; of a user's code, of the items in its users' training histories. It is meant for
    pretrained models: the text rows of a model built from scratch mean nothing yet.

The vectors of a level are centred and scaled so that their mean and their spread are those of the
text rows. What has no vector (control tokens, a disambiguation level, a code without text) and a
level whose vectors are all equal keep the values of `text_mean`.

Shape letters: V text rows, H hidden width, K codes of a level, D code dimension, I items, U users.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from dasrec.core import Corpus, SemanticIds, SidTable, derive_seed
from dasrec.generative.data.texts import catalogue_texts
from dasrec.generative.model.item_words import ItemWords
from dasrec.generative.model.vocabulary import SidVocabulary

TokenInit = Literal["text_mean", "codebook", "item_text"]


class LevelVectors(NamedTuple):
    """Where the rows of one level come from."""

    tokens_K: Tensor
    """Token ids of the level's codes that have a vector."""
    vectors: Callable[[Tensor, torch.Generator], Tensor]
    """(V, H) text rows, and draws -> (K, H) one vector per code, of any mean and scale."""


def check_token_init(kind: TokenInit, corpus: Corpus, sids: SemanticIds) -> None:
    """Refuse an init that has nothing to start from, before any model is loaded.

    Raises:
        ValueError: the semantic IDs have no codebooks, or the catalogue has no texts.
    """
    tables = {"items": sids.items, "users": sids.users}
    bare = [side for side, table in tables.items() if table is not None and not table.codebooks]
    if kind == "codebook" and bare:
        raise ValueError(
            f"generator.pretrain.base.token_init: codebook, but the semantic IDs of the {bare[0]} "
            "carry no codebooks; assign them with a tokenizer that has some, or take text_mean"
        )
    if kind == "item_text" and not any(catalogue_texts(corpus)):
        raise ValueError(
            "generator.pretrain.base.token_init: item_text, but no item of the catalogue has a "
            "text; take codebook or text_mean"
        )


def level_vectors(
    kind: TokenInit, corpus: Corpus, sids: SemanticIds, vocabulary: SidVocabulary, tokenizer: Any
) -> list[LevelVectors]:
    """Where the rows of every level come from; empty under `text_mean`."""
    if kind == "text_mean":
        return []
    words = None if kind == "codebook" else ItemWords(corpus, tokenizer, vocabulary)
    sides = [("items", sids.items, vocabulary.item_levels)]
    if sids.users is not None and vocabulary.user_levels:
        sides.append(("users", sids.users, vocabulary.user_levels))
    found: list[LevelVectors] = []
    for side, table, levels in sides:
        found += (
            _codeword_vectors(table, levels)
            if words is None
            else _text_vectors(words, side, table, levels)
        )
    return found


@torch.no_grad()
def set_new_rows(
    model: Any,
    vocabulary: SidVocabulary,
    num_rows: int,
    levels: list[LevelVectors],
    seed: int,
) -> None:
    """Set the rows of all added tokens, and of the padding behind them.

    transformers' own mean-resizing scales the covariance by 1e-9, which makes all SID rows the
    same vector; and rows that a padded checkpoint already had would keep their old values. A
    padding row is the mean of the text rows: its logit is the mean of theirs, never the highest.

    Args:
        model: the resized model.
        vocabulary: the added tokens.
        num_rows: V, the first rows, whose mean and spread the new rows get.
        levels: from `level_vectors`.
        seed: of the draws.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "token_init"))
    new = torch.tensor(vocabulary.new_token_ids)
    behind = int(new[-1]) + 1
    output = model.get_output_embeddings()
    matrices = (model.get_input_embeddings().weight, output.weight)
    for weight in {id(w): w for w in matrices}.values():
        text_VH = weight[:num_rows].float().clone()
        mean_H, std_H = text_VH.mean(0), text_VH.std(0)
        weight[behind:] = mean_H.to(weight.dtype)
        noise = torch.randn(len(new), weight.shape[1], generator=generator)
        weight[new] = (mean_H + std_H * noise).to(weight.dtype)
        for level in levels:
            rows_KH = level.vectors(text_VH, generator)
            if (rows_KH != rows_KH[:1]).any():
                weight[level.tokens_K] = like_text(rows_KH, text_VH).to(weight.dtype)
    if getattr(output, "bias", None) is not None:
        bias = output.bias[:num_rows].mean()
        output.bias[new] = bias
        output.bias[behind:] = bias


def like_text(rows_KH: Tensor, text_VH: Tensor) -> Tensor:
    """Shift and scale vectors to the mean and the mean squared deviation of the text rows."""
    centred_KH = rows_KH - rows_KH.mean(0)
    spread = (text_VH - text_VH.mean(0)).square().sum(1).mean()
    scale = (spread / centred_KH.square().sum(1).mean()).sqrt()
    return text_VH.mean(0) + scale * centred_KH


def _codeword_vectors(table: SidTable, levels: tuple[tuple[int, ...], ...]) -> list[LevelVectors]:
    # A disambiguation level comes last and has no codebook.
    return [
        LevelVectors(torch.tensor(tokens), _Turned(torch.from_numpy(np.array(book, np.float32))))
        for tokens, book in zip(levels, table.codebooks, strict=False)
    ]


def _text_vectors(
    words: ItemWords, side: str, table: SidTable, levels: tuple[tuple[int, ...], ...]
) -> list[LevelVectors]:
    found = []
    for level, tokens in enumerate(levels):
        shares_KV = words.of_codes(side, np.asarray(table.codes[:, level], np.int64), len(tokens))
        real = np.flatnonzero(np.diff(shares_KV.indptr))
        if len(real):
            found.append(LevelVectors(torch.tensor(tokens)[real], _Mixed(shares_KV[real])))
    return found


class _Turned:
    """Codewords in the model's width, by the fewest possible changes of their distances.

    They are written in their principal axes; the first H of these (all of them where D <= H, which
    keeps every distance) get random orthogonal directions of the model's space. Directions differ
    from level to level, so that levels do not overlap.
    """

    def __init__(self, words_KD: Tensor) -> None:
        self.words_KD = words_KD

    def __call__(self, text_VH: Tensor, generator: torch.Generator) -> Tensor:
        centred_KD = self.words_KD - self.words_KD.mean(0)
        axes_KR, lengths_R, _ = torch.linalg.svd(centred_KD, full_matrices=False)
        width = text_VH.shape[1]
        rank = min(width, len(lengths_R))
        drawn_HR = torch.randn(width, rank, generator=generator)
        directions_HR, _ = torch.linalg.qr(drawn_HR)
        turned_KH: Tensor = (axes_KR * lengths_R)[:, :rank] @ directions_HR.T
        return turned_KH


class _Mixed:
    """Weighted means of text rows."""

    def __init__(self, shares_KV: sparse.csr_array) -> None:
        self.shares_KV = shares_KV

    def __call__(self, text_VH: Tensor, generator: torch.Generator) -> Tensor:
        rows = self.shares_KV @ text_VH[: self.shares_KV.shape[1]].double().numpy()
        return torch.from_numpy(rows).float()
