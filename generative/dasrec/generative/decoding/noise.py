"""Gumbel noise that is a function of a user's seed and of what it is for, not of when it is drawn.

A generator's numbers depend on how many were drawn before: on the other users of the batch, on
filters, on the order of nodes. Here every prefix of codes has a key, and its noise is a hash of it.
So a user's sample is the same in any batch, and nearly the same when the catalogue has changed.

Shape letters: R rows, C candidates (of all rows, one after another), any other shape elementwise.
"""

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # as signed 64-bit integers: torch wraps around
_MIX1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX2 = 0x94D049BB133111EB - 2**64


def child_key(key: Tensor, code: Tensor) -> Tensor:
    """int64 key of a prefix continued by a code (or by an item, where several share a SID).

    The output function of splitmix64 (Steele et al. 2014, 10.1145/2660193.2660195), chained.
    """
    return _mix(key + (code + 1) * _GOLDEN)


def gumbel(key: Tensor) -> Tensor:
    """float64 standard Gumbel noise, one independent number per key."""
    bits = (_mix(key) >> 12) & (2**52 - 1)
    uniform = (bits.double() + 0.5) * 2.0**-52  # never 0 or 1
    return -(-uniform.log()).log()


def gumbel_below(phi_C: Tensor, row_C: Tensor, top_R: Tensor, key_C: Tensor) -> Tensor:
    """Perturbed log-probabilities of siblings, given that their maximum is their parent's.

    G_C ~ Gumbel(phi_C) conditional on max = top, top ~ Gumbel(logsumexp of phi) (Kool et al. 2019,
    1903.06059, eq. 7 and appendix B.3, in its numerically stable form).

    Args:
        phi_C: float64 log-probabilities; -inf stays -inf.
        row_C: the parent of each.
        top_R: float64 perturbed log-probability of each parent.
        key_C: of the noise.

    Returns:
        (C,) float64; for each row the largest is `top_R`.
    """
    free_C = phi_C + gumbel(key_C)
    best_R = torch.full_like(top_R, float("-inf")).scatter_reduce(0, row_C, free_C, "amax")
    top_C, gap_C = top_R[row_C], free_C - best_R[row_C]  # gap <= 0, nan if all are -inf
    shift_C = top_C - free_C + torch.log1p(-gap_C.exp())
    below_C = top_C - shift_C.clamp(min=0) - torch.log1p((-shift_C.abs()).exp())
    below_C = torch.where(gap_C == 0, top_C, below_C)  # the largest itself, without rounding
    return below_C.masked_fill(phi_C == float("-inf"), float("-inf"))


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * _MIX1
    z = (z ^ _shift(z, 27)) * _MIX2
    return z ^ _shift(z, 31)


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical right shift: torch's keeps the sign."""
    kept: int = 2 ** (64 - bits) - 1
    return (z >> bits) & kept
