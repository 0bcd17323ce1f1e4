"""Cross-entropy over the whole catalogue, or over a sample that stands for it.

Both add one number, the repeat bias, to the logits of what a sequence already holds.

Shape letters: P positions, D hidden size, I items, N sampled items, T places, C positions of a
chunk.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 128
"""Positions whose logits exist at a time: at 12,000 items 6 MB, which stays in the cache."""


def catalogue_loss(
    states_PD: Tensor, weights_ID: Tensor, targets_P: Tensor, seen_PT: Tensor, repeat_bias: Tensor
) -> Tensor:
    """Mean over positions of -log softmax(state . weights + repeat_bias [seen])[target].

    The same number and gradients as `cross_entropy` of the (P, I) logits, but logits and their
    gradients are made chunk by chunk and never kept: 1.2 to 2 times as fast on a CPU (the narrower
    the model, the more), and the memory does not grow with positions times items.

    Args:
        states_PD: the model's state at every position.
        weights_ID: embeddings of all items.
        targets_P: the item that came next.
        seen_PT: the items up to each position; a row may name an item several times.
        repeat_bias: scalar.
    """
    loss: Tensor = _CatalogueLoss.apply(  # type: ignore[no-untyped-call]
        states_PD, weights_ID, targets_P, seen_PT, repeat_bias
    )
    return loss


class _CatalogueLoss(torch.autograd.Function):
    """Computes gradients in the forward pass, while a chunk's probabilities are at hand."""

    @staticmethod
    def forward(
        ctx: Any,
        states_PD: Tensor,
        weights_ID: Tensor,
        targets_P: Tensor,
        seen_PT: Tensor,
        repeat_bias: Tensor,
    ) -> Tensor:
        num_positions = len(targets_P)
        states_grad_PD = torch.empty_like(states_PD)
        weights_grad_ID = torch.zeros_like(weights_ID)
        total, bias_grad = states_PD.new_zeros(()), states_PD.new_zeros(())
        for start in range(0, num_positions, CHUNK):
            chunk = slice(start, start + CHUNK)
            target_C1, seen_CT = targets_P[chunk, None], seen_PT[chunk]
            logits_CI = states_PD[chunk] @ weights_ID.T
            logits_CI.scatter_(1, seen_CT, logits_CI.gather(1, seen_CT) + repeat_bias)
            target_logit_C1 = logits_CI.gather(1, target_C1)
            highest_C1 = logits_CI.amax(1, keepdim=True)
            exp_CI = logits_CI.sub_(highest_C1).exp_()
            sum_C1 = exp_CI.sum(1, keepdim=True)
            total += (sum_C1.log() + highest_C1 - target_logit_C1).sum()
            # d loss / d logits = (softmax - one_hot) / P
            grad_CI = exp_CI.mul_(1 / (sum_C1 * num_positions))
            grad_CI.scatter_add_(1, target_C1, torch.full_like(sum_C1, -1 / num_positions))
            states_grad_PD[chunk] = grad_CI @ weights_ID
            weights_grad_ID.addmm_(grad_CI.T, states_PD[chunk])
            # A row's gradients sum to 0, so those of the seen items are minus the rest.
            bias_grad -= grad_CI.scatter_(1, seen_CT, 0.0).sum()
        ctx.save_for_backward(states_grad_PD, weights_grad_ID, bias_grad)
        return total / num_positions

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, Tensor]:
        states_grad_PD, weights_grad_ID, bias_grad = ctx.saved_tensors
        (grad,) = grads
        return states_grad_PD * grad, weights_grad_ID * grad, None, None, bias_grad * grad


def sampled_loss(
    states_PD: Tensor,
    weights_ID: Tensor,
    targets_P: Tensor,
    seen_PT: Tensor,
    repeat_bias: Tensor,
    negatives_N: Tensor,
) -> Tensor:
    """Mean sampled-softmax loss with negatives drawn evenly from the catalogue.

    Negatives are different items, shared by all positions. They stand for the I - 1 items that are
    not the target, so log((I - 1) / N) is added to their logits (Bengio and Senecal 2008): the
    loss then estimates `catalogue_loss`, whose other arguments it shares. A negative that is a
    position's target is left out there.
    """
    num_items, num_negatives = len(weights_ID), len(negatives_N)
    positive_P = (states_PD * weights_ID[targets_P]).sum(1)
    positive_P = positive_P + repeat_bias * (seen_PT == targets_P[:, None]).any(1)
    # The column of each seen item among the negatives; the others share a column that is cut off.
    column_I = torch.full((num_items,), num_negatives, device=negatives_N.device)
    column_I[negatives_N] = torch.arange(num_negatives, device=negatives_N.device)
    repeats_PN = states_PD.new_zeros(len(states_PD), num_negatives + 1)
    repeats_PN = repeats_PN.scatter_(1, column_I[seen_PT], 1.0)[:, :-1]
    logits_PN = states_PD @ weights_ID[negatives_N].T + repeat_bias * repeats_PN
    logits_PN = logits_PN + math.log((num_items - 1) / num_negatives)
    logits_PN = logits_PN.masked_fill(negatives_N == targets_P[:, None], -math.inf)
    logits = torch.cat([positive_P[:, None], logits_PN], dim=1)
    return F.cross_entropy(logits, torch.zeros_like(targets_P))
