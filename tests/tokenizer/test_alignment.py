"""Every loss against a loop written from the formula, over all (B, B) pairs of the batch."""

import math

import pytest
import torch
from torch import Tensor

from dasrec.tokenizer.alignment import (
    cooccurrence,
    cosine_scores,
    negatives,
    pair_nce,
    same_id,
    user_to_item,
)

TAU = 0.2


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def nce_loop(
    anchors: Tensor, positives: Tensor, is_negative: list[list[bool]], tau: float = TAU
) -> float:
    total = 0.0
    for n in range(len(anchors)):
        own = math.exp(cosine(anchors[n], positives[n]) / tau)
        others = [
            math.exp(cosine(anchors[n], positives[m]) / tau)
            for m in range(len(anchors))
            if m != n and is_negative[n][m]
        ]
        total -= math.log(own / (own + sum(others)))
    return total / len(anchors)


@pytest.fixture
def tables() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: torch.randn(6, 5) for name in ("z_u", "z_i", "c_u", "c_i")}


# Click pairs: user 0 twice, items 1 and 3 twice; user 2 clicked item 0 outside this batch.
USERS, ITEMS = [0, 0, 1, 2, 3, 4], [0, 1, 1, 2, 3, 3]
CLICKED = {*zip(USERS, ITEMS, strict=True), (2, 0)}


def test_u2i_losses_skip_repeats_and_known_clicks(tables: dict[str, Tensor]) -> None:
    negative = [[(u, i) not in CLICKED for i in ITEMS] for u in USERS]
    assert negative[0][1] is False  # the user's other click
    assert negative[1][2] is False  # the same item again
    assert negative[3][0] is False  # clicked elsewhere
    assert negative[0][4] is negative[0][5] is True  # a negative that counts twice
    clicked = torch.tensor([[(u, i) in CLICKED for i in range(4)] for u in range(5)])
    users, items = torch.tensor(USERS), torch.tensor(ITEMS)
    loss = user_to_item(
        tables["z_u"][:5], tables["c_i"][:4], negatives(items, clicked), users, items, 1 / TAU
    )
    expected = nce_loop(tables["z_u"][USERS], tables["c_i"][ITEMS], negative)
    assert loss.item() == pytest.approx(expected, rel=1e-5)

    mirrored = [list(row) for row in zip(*negative, strict=True)]
    loss = user_to_item(
        tables["z_i"][:4], tables["c_u"][:5], negatives(users, clicked.T), items, users, 1 / TAU
    )
    expected = nce_loop(tables["z_i"][ITEMS], tables["c_u"][USERS], mirrored)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("side", ["u", "i"])
def test_same_id_losses(tables: dict[str, Tensor], side: str) -> None:
    z, c = tables[f"z_{side}"], tables[f"c_{side}"]
    loss = same_id(z, c, 1 / TAU)
    assert loss.item() == pytest.approx(nce_loop(z, c, [[True] * 6] * 6), rel=1e-5)


@pytest.mark.parametrize("side", ["u", "i"])
def test_cooccurrence_losses_skip_the_partner_and_the_anchor(
    tables: dict[str, Tensor], side: str
) -> None:
    z = tables[f"z_{side}"]
    anchor, partner = [0, 1, 2, 4, 5], [3, 3, 0, 2, 4]
    negative = [[partner[m] not in (partner[n], anchor[n]) for m in range(5)] for n in range(5)]
    assert negative[0][1] is False  # the same partner
    assert negative[0][2] is False  # the anchor as another pair's partner
    loss = cooccurrence(z, torch.tensor([anchor, partner]), 1 / TAU)
    assert loss.item() == pytest.approx(nce_loop(z[anchor], z[partner], negative), rel=1e-5)


def test_no_pairs_no_loss() -> None:
    assert cooccurrence(torch.randn(3, 2), torch.zeros(2, 0, dtype=torch.long), 5.0).item() == 0


def test_an_anchor_without_negatives_has_no_loss_and_no_gradient() -> None:
    torch.manual_seed(0)
    z = torch.randn(3, 4, requires_grad=True)
    excluded = torch.eye(3, dtype=torch.bool)
    excluded[0] = True
    rows = torch.arange(3)
    scores = cosine_scores(z, torch.randn(3, 4), 5.0)
    weights = negatives(rows, excluded)
    pair_nce(scores, weights, rows, rows).backward()
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()
    assert z.grad[0].abs().max() < 1e-6
    assert z.grad[1].abs().max() > 1e-3
