import math

import pytest
import torch
from torch.nn import functional as F

from dasrec.baselines import softmax_loss
from dasrec.baselines.softmax_loss import catalogue_loss, sampled_loss


@pytest.mark.parametrize("chunk", [1, 4, 7, 100])
def test_catalogue_loss_is_cross_entropy(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(softmax_loss, "CHUNK", chunk)
    torch.manual_seed(0)
    states = torch.randn(14, 5, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(23, 5, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(23, (14,))
    ours = 3 * catalogue_loss(states, weights, targets)  # not the last operation of the graph
    theirs = 3 * F.cross_entropy(states @ weights.T, targets)
    torch.testing.assert_close(ours, theirs)
    for mine, other in zip(
        torch.autograd.grad(ours, (states, weights)),
        torch.autograd.grad(theirs, (states, weights)),
        strict=True,
    ):
        torch.testing.assert_close(mine, other)


def test_catalogue_loss_survives_large_logits() -> None:
    states, weights = torch.tensor([[300.0]]), torch.tensor([[1.0], [-1.0]])
    assert catalogue_loss(states, weights, torch.tensor([1])).item() == 600


def test_sampled_loss_with_every_other_item_is_the_catalogue_loss() -> None:
    torch.manual_seed(0)
    embedding = torch.nn.Embedding(12, 4)  # 11 items and padding
    states, targets = torch.randn(3, 4), torch.tensor([5, 5, 5])
    others = torch.tensor([i for i in range(11) if i != 5])
    expected = F.cross_entropy(states @ embedding.weight[:11].T, targets)
    torch.testing.assert_close(sampled_loss(states, embedding, targets, others), expected)


def test_sampled_loss_leaves_out_negatives_that_are_targets() -> None:
    embedding = torch.nn.Embedding(4, 1)
    with torch.no_grad():
        embedding.weight[:] = torch.tensor([[1.0], [2.0], [3.0], [0.0]])
    loss = sampled_loss(torch.ones(1, 1), embedding, torch.tensor([0]), torch.tensor([0, 2]))
    # I = 3, N = 2: one negative is left, it counts exp(3) * (3 - 1) / 2
    assert loss.item() == pytest.approx(math.log(1 + math.exp(3.0 - 1.0)))
