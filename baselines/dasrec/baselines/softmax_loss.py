"""Cross-entropy over the whole catalogue, or over a sample that stands for it.

Shape letters: P positions, D hidden size, I items, N sampled items, C positions of a chunk.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 128
"""Positions whose logits exist at a time: at 12,000 items 6 MB, which stays in the cache."""


def catalogue_loss(states_PD: Tensor, weights_ID: Tensor, targets_P: Tensor) -> Tensor:
    """Mean over positions of -log softmax(state . weights)[target].

    The same number and gradients as `cross_entropy(states @ weights.T, targets)`, but logits and
    their gradients are made chunk by chunk and never kept: about twice as fast on a CPU, and the
    memory does not grow with positions times items.
    """
    loss: Tensor = _CatalogueLoss.apply(states_PD, weights_ID, targets_P)  # type: ignore[no-untyped-call]
    return loss


class _CatalogueLoss(torch.autograd.Function):
    """Computes gradients in the forward pass, while a chunk's probabilities are at hand."""

    @staticmethod
    def forward(ctx: Any, states_PD: Tensor, weights_ID: Tensor, targets_P: Tensor) -> Tensor:
        num_positions = len(targets_P)
        states_grad_PD = torch.empty_like(states_PD)
        weights_grad_ID = torch.zeros_like(weights_ID)
        total = states_PD.new_zeros(())
        for start in range(0, num_positions, CHUNK):
            states_CD = states_PD[start : start + CHUNK]
            target_C1 = targets_P[start : start + CHUNK, None]
            logits_CI = states_CD @ weights_ID.T
            target_logit_C1 = logits_CI.gather(1, target_C1)
            highest_C1 = logits_CI.amax(1, keepdim=True)
            exp_CI = logits_CI.sub_(highest_C1).exp_()
            sum_C1 = exp_CI.sum(1, keepdim=True)
            total += (sum_C1.log() + highest_C1 - target_logit_C1).sum()
            # d loss / d logits = (softmax - one_hot) / P
            grad_CI = exp_CI.mul_(1 / (sum_C1 * num_positions))
            grad_CI.scatter_add_(1, target_C1, torch.full_like(sum_C1, -1 / num_positions))
            states_grad_PD[start : start + CHUNK] = grad_CI @ weights_ID
            weights_grad_ID.addmm_(grad_CI.T, states_CD)
        ctx.save_for_backward(states_grad_PD, weights_grad_ID)
        return total / num_positions

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        states_grad_PD, weights_grad_ID = ctx.saved_tensors
        return states_grad_PD * grads[0], weights_grad_ID * grads[0], None


def sampled_loss(
    states_PD: Tensor, embedding: torch.nn.Embedding, targets_P: Tensor, negatives_N: Tensor
) -> Tensor:
    """Mean sampled-softmax loss with negatives drawn evenly from the catalogue (last row: padding).

    Negatives are shared by all positions and stand for the I - 1 items that are not the target, so
    log((I - 1) / N) is added to their logits (Bengio and Senecal 2008): the loss then estimates
    the loss over the catalogue. A negative that is a position's target is left out there.
    """
    num_items = embedding.num_embeddings - 1
    positive_P1 = (states_PD * embedding(targets_P)).sum(1, keepdim=True)
    logits_PN = states_PD @ embedding(negatives_N).T
    logits_PN = logits_PN + math.log((num_items - 1) / len(negatives_N))
    logits_PN = logits_PN.masked_fill(negatives_N == targets_P[:, None], -math.inf)
    logits = torch.cat([positive_P1, logits_PN], dim=1)
    return F.cross_entropy(logits, torch.zeros_like(targets_P))
