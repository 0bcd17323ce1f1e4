import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dasrec.core import softmax_loss
from dasrec.core.softmax_loss import catalogue_loss, sampled_loss


def reference(
    states: Tensor, weights: Tensor, targets: Tensor, seen: Tensor, bias: Tensor
) -> Tensor:
    holds = torch.zeros(len(states), len(weights), dtype=states.dtype)
    for row, items in enumerate(seen.tolist()):
        holds[row, items] = 1
    return F.cross_entropy(states @ weights.T + bias * holds, targets)


@pytest.fixture
def problem() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(14, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    weights = torch.randn(23, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    targets = torch.randint(23, (14,), generator=generator)
    seen = torch.randint(23, (14, 6), generator=generator)
    seen[3] = 7  # repeats in a row
    seen[:4, 5] = targets[:4]  # targets that repeat
    return states, weights, targets, seen, torch.tensor(-1.5).double().requires_grad_()


@pytest.mark.parametrize("chunk", [1, 4, 7, 100])
def test_catalogue_loss_is_cross_entropy(
    chunk: int,
    problem: tuple[Tensor, Tensor, Tensor, Tensor, Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(softmax_loss, "CHUNK", chunk)
    states, weights, _, _, bias = problem
    ours = 3 * catalogue_loss(*problem)  # not the last operation of the graph
    theirs = 3 * reference(*problem)
    torch.testing.assert_close(ours, theirs)
    inputs = (states, weights, bias)
    for mine, other in zip(
        torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs), strict=True
    ):
        torch.testing.assert_close(mine, other)


def test_catalogue_loss_survives_large_logits() -> None:
    states, weights = torch.tensor([[300.0]]), torch.tensor([[1.0], [-1.0]])
    seen = torch.tensor([[0]])
    loss = catalogue_loss(states, weights, torch.tensor([1]), seen, torch.tensor(-1.0))
    assert loss.item() == 599


def test_sampled_loss_with_every_other_item_is_the_catalogue_loss(
    problem: tuple[Tensor, Tensor, Tensor, Tensor, Tensor],
) -> None:
    states, weights, targets, seen, bias = problem
    targets = torch.full_like(targets, 5)
    others = torch.tensor([i for i in range(23) if i != 5])
    ours = sampled_loss(states, weights, targets, seen, bias, others)
    theirs = reference(states, weights, targets, seen, bias)
    torch.testing.assert_close(ours, theirs)
    inputs = (states, weights, bias)
    for mine, other in zip(
        torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs), strict=True
    ):
        torch.testing.assert_close(mine, other)


def test_sampled_loss_leaves_out_negatives_that_are_targets() -> None:
    weights = torch.tensor([[1.0], [2.0], [3.0]])
    loss = sampled_loss(
        torch.ones(1, 1),
        weights,
        torch.tensor([0]),
        torch.tensor([[1]]),
        torch.tensor(-9.0),
        torch.tensor([0, 2]),
    )
    # I = 3, N = 2: one negative is left, it counts exp(3) * (3 - 1) / 2
    assert loss.item() == pytest.approx(math.log(1 + math.exp(3.0 - 1.0)))
