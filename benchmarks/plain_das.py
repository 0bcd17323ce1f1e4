"""The peer of benchmarks/tokenizer.py: DAS's training step as public repositories write theirs.

A Dataset gives one click at a time (user, item and partners drawn in Python), every click row is
sent through its RQ-VAE by itself (user, item and both partners: four forward passes), scores are
(B, B) with masks, and each loss is read with `.item()`. The weights are those of the `Das` module
it is given: one and the same model.

Shape letters: B clicks of a batch, K codebook size, D code dimension, X input width.
"""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dasrec.tokenizer.autoencoder import Autoencoder
from dasrec.tokenizer.icdm import Factors
from dasrec.tokenizer.methods.das import Das
from dasrec.tokenizer.trainer import GRADIENT_NORM

Row = tuple[Any, ...]


class ClickRows(Dataset[Row]):
    """user, item, partner user, partner item (-1: none), and the vectors of the four."""

    def __init__(self, das: Das) -> None:
        corpus, alignment = das.data.corpus, das.config.alignment
        self.users, self.items = das.data.users_UX, das.data.items_IX
        self.window, self.damping = alignment.window, alignment.damping
        sequences = corpus.train_sequences
        self.histories = [
            part.tolist() for part in np.split(sequences.values, sequences.starts[1:-1])
        ]
        self.clicks = [(u, k) for u, items in enumerate(self.histories) for k in range(len(items))]
        self.clickers: list[list[int]] = [[] for _ in range(corpus.num_items)]
        for user, items in enumerate(self.histories):
            for item in items:
                self.clickers[item].append(user)
        self.median = float(np.median([len(self.clickers[i]) for h in self.histories for i in h]))

    def __len__(self) -> int:
        """Clicks."""
        return len(self.clicks)

    def __getitem__(self, index: int) -> Row:
        """One click."""
        user, place = self.clicks[index]
        history = self.histories[user]
        item = history[place]
        near = history[max(0, place - self.window) : place + self.window + 1]
        other_item = self._partner(near, item, len(self.clickers[item]))
        other_user = self._partner(self.clickers[item], user, len(self.clickers[item]))
        vectors = self.users[user], self.items[item], self.users[other_user], self.items[other_item]
        return user, item, other_user, other_item, *vectors

    def _partner(self, candidates: list[int], own: int, popularity: int) -> int:
        partner = random.choice(candidates)
        keep = random.random() < min(1.0, self.median / popularity) ** self.damping
        return partner if partner != own and keep else -1


def click_matrix(das: Das) -> scipy.sparse.csr_array:
    """(U, I) training clicks."""
    sequences = das.data.corpus.train_sequences
    user = np.repeat(np.arange(len(sequences.starts) - 1), np.diff(sequences.starts))
    shape = (das.data.corpus.num_users, das.data.corpus.num_items)
    ones = np.ones(len(user), bool)
    return scipy.sparse.csr_array((ones, (user, sequences.values)), shape=shape)


def sinkhorn_codes(distance_BK: Tensor, epsilon: float, iterations: int = 50) -> Tensor:
    """Balanced codes: the whole matrix is normalised by columns and by rows, in double."""
    centre = (distance_BK.max() + distance_BK.min()) / 2
    q_BK = torch.exp(-((distance_BK - centre) / (distance_BK.max() - centre)).double() / epsilon)
    q_BK = q_BK / q_BK.sum()
    for _ in range(iterations):
        q_BK = q_BK / q_BK.sum(0, keepdim=True) / q_BK.shape[1]
        q_BK = q_BK / q_BK.sum(1, keepdim=True) / q_BK.shape[0]
    return q_BK.argmax(1)


def forward(side: Autoencoder, x_BX: Tensor, balanced: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """z (B, D) with a straight-through gradient, and the RQ-VAE's losses."""
    x_BX = F.normalize(x_BX)
    h_BD = side.encoder(x_BX)
    residual_BD, z_BD = h_BD, torch.zeros_like(h_BD)
    codebook, commitment = h_BD.new_zeros(()), h_BD.new_zeros(())
    books = list(side.quantizer.codebooks)
    for level, book_KD in enumerate(books):
        distance_BK = (
            residual_BD.pow(2).sum(1, keepdim=True)
            + book_KD.pow(2).sum(1)
            - 2 * residual_BD @ book_KD.T
        ).detach()
        if balanced and level == len(books) - 1:
            codes_B = sinkhorn_codes(distance_BK, side.quantizer.config.sinkhorn_epsilon)
        else:
            codes_B = distance_BK.argmin(1)
        word_BD = F.embedding(codes_B, book_KD)
        commitment = commitment + (residual_BD - word_BD.detach()).pow(2).sum(1).mean()
        codebook = codebook + (residual_BD.detach() - word_BD).pow(2).sum(1).mean()
        residual_BD = residual_BD - word_BD.detach()
        z_BD = z_BD + word_BD
    z_BD = h_BD + (z_BD - h_BD).detach()
    recon = (x_BX - side.decoder(z_BD)).pow(2).sum(1).mean()
    return z_BD, {"codebook": codebook, "commitment": commitment, "recon": recon}


def contrast(a_BD: Tensor, b_BD: Tensor, tau: float, hidden_BB: Tensor, shift: Tensor | float = 0.0
             ) -> Tensor:  # fmt: skip
    """InfoNCE over (B, B) cosine scores; `hidden_BB` are no negatives."""
    scores_BB = F.normalize(a_BD) @ F.normalize(b_BD).T / tau - shift
    labels = torch.arange(len(a_BD))
    hidden_BB = hidden_BB & ~torch.eye(len(a_BD), dtype=torch.bool)
    return F.cross_entropy(scores_BB.masked_fill(hidden_BB, -torch.inf), labels)


def same(a_B: Tensor, b_B: Tensor) -> Tensor:
    """(B, B): equal ids."""
    return a_B[:, None] == b_B[None]


def losses(das: Das, clicked: scipy.sparse.csr_array, batch: Row) -> dict[str, Tensor]:
    """All weighted terms, named as in `Das.losses`."""
    user_B, item_B, other_user_B, other_item_B, x_user, x_item, x_other_user, x_other_item = batch
    config, icdm = das.config, das.icdm
    assert icdm is not None
    balanced, align = config.sinkhorn == "last", config.alignment
    named, z, z_other = {}, {}, {}
    for name, side, x_BX, other_BX in (
        ("item", das.sides.items, x_item, x_other_item),
        ("user", das.sides.users, x_user, x_other_user),
    ):
        z[name], own = forward(side, x_BX, balanced)
        z_other[name], others = forward(side, other_BX, balanced)
        weights = {"commitment": config.commitment}
        for term in own:
            mean = (own[term] + others[term]) / 2
            named[f"{name}/{term}"] = weights.get(term, 1.0) * mean
    block = torch.from_numpy(clicked[user_B.numpy()][:, item_B.numpy()].toarray())
    user, item = icdm.users(user_B), icdm.items(item_B)
    named |= _cf_losses(das, user, item, block, icdm.log_q_I[item_B])
    terms = {
        "u2i_item": contrast(z["item"], user.true_BD, align.tau, block.T),
        "u2i_user": contrast(z["user"], item.true_BD, align.tau, block),
        "same_item": contrast(z["item"], item.true_BD, align.tau, same(item_B, item_B)),
        "same_user": contrast(z["user"], user.true_BD, align.tau, same(user_B, user_B)),
        "cooccur_item": _cooccurrence(z["item"], z_other["item"], item_B, other_item_B, align.tau),
        "cooccur_user": _cooccurrence(z["user"], z_other["user"], user_B, other_user_B, align.tau),
    }
    return named | {f"align/{name}": config.beta * term for name, term in terms.items()}


def _cf_losses(
    das: Das, user: Factors, item: Factors, block: Tensor, log_q_B: Tensor
) -> dict[str, Tensor]:
    config = das.config.icdm
    sim, orth, reg = [], [], []
    for side in (user, item):
        sim.append((1 - F.cosine_similarity(side.bias_BD, side.reference_BD.detach())).mean())
        orth.append(F.cosine_similarity(side.true_BD, side.bias_BD).pow(2).mean())
        reg.append(F.mse_loss(side.anchored_B, side.anchor_B))
    return {
        "cf/bias": contrast(user.fused_BD, item.fused_BD, config.tau, block, log_q_B),
        "cf/unbias": contrast(user.true_BD, item.true_BD, config.tau, block),
        "cf/sim": config.sim * (sim[0] + sim[1]),
        "cf/orth": config.orth * (orth[0] + orth[1]),
        "cf/reg": config.reg * (reg[0] + reg[1]),
    }


def _cooccurrence(z_BD: Tensor, other_BD: Tensor, id_B: Tensor, other_B: Tensor, tau: float
                  ) -> Tensor:  # fmt: skip
    there = other_B >= 0
    id_B, other_B = id_B[there], other_B[there]
    hidden = same(id_B, other_B) | same(other_B, other_B)
    return contrast(z_BD[there], other_BD[there], tau, hidden)


def train(das: Das, optimizer: torch.optim.Optimizer, batch_size: int) -> Iterator[int]:
    """Steps without end; gives the click pairs of each."""
    history: dict[str, list[float]] = {}
    clicked = click_matrix(das)
    loader = DataLoader(ClickRows(das), batch_size, shuffle=True, drop_last=True)
    while True:
        for batch in loader:
            terms = losses(das, clicked, tuple(batch))
            total = torch.stack(list(terms.values())).sum()
            optimizer.zero_grad()
            total.backward()
            torch.nn.utils.clip_grad_norm_(das.parameters(), GRADIENT_NORM)
            optimizer.step()
            for name, term in terms.items():
                history.setdefault(name, []).append(term.item())
            yield len(batch[0])
