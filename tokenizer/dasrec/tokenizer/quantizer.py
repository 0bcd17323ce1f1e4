"""Residual quantization (RQ-VAE, arXiv 2203.01941; das-method 1.1).

    r^1 = h;   c^l = argmin_k ||r^l - e^l_k||^2;   r^{l+1} = r^l - sg[e^l_{c^l}]
    z = sum_l e^l_{c^l}

Shape letters: B batch, L levels, K codebook size, D code dimension.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Quantized(NamedTuple):
    """What quantizing a batch gives."""

    codes_BL: Tensor
    """int64."""
    quantized_BD: Tensor
    """z in value, h in gradient: h + sg[z - h]."""
    codebook: Tensor
    """sum_l mean_B ||sg[r^l] - e^l||^2: moves the codewords."""
    commitment: Tensor
    """sum_l mean_B ||r^l - sg[e^l]||^2: moves the encoder. Because the residual subtracts
    sg[e], every level's term reaches it (public code that subtracts the straight-through
    codeword keeps level 1 only)."""
    entropy: Tensor
    """sum_l (log K - H(mean_B softmax_k(-d_k / mean d))), 0 at uniform use; 0 if not asked for."""


class ResidualQuantizer(nn.Module):
    """L codebooks, each quantizing what the levels before it left over."""

    def __init__(self, level_sizes: tuple[int, ...], code_dim: int) -> None:
        super().__init__()
        self.codebooks = nn.ParameterList(
            nn.Parameter(torch.randn(size, code_dim) / math.sqrt(code_dim)) for size in level_sizes
        )

    def forward(self, h_BD: Tensor, with_entropy: bool = False) -> Quantized:
        """Quantize `h_BD` and give the losses that train codewords and encoder."""
        residual_BD, z_BD = h_BD, torch.zeros_like(h_BD)
        codebook = commitment = entropy = h_BD.new_zeros(())
        codes = []
        for codebook_KD in self.codebooks:
            codes_B = nearest(residual_BD.detach(), codebook_KD.detach())
            chosen_BD = codebook_KD[codes_B]
            codebook = codebook + (residual_BD.detach() - chosen_BD).square().sum(1).mean()
            commitment = commitment + (residual_BD - chosen_BD.detach()).square().sum(1).mean()
            if with_entropy:
                entropy = entropy + usage_gap(residual_BD, codebook_KD)
            codes.append(codes_B)
            z_BD = z_BD + chosen_BD.detach()
            residual_BD = residual_BD - chosen_BD.detach()
        straight_BD = h_BD + (z_BD - h_BD).detach()
        return Quantized(torch.stack(codes, 1), straight_BD, codebook, commitment, entropy)

    @torch.no_grad()
    def encode(self, h_BD: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Codes (B, L), z (B, D), and the residual r^l (B, D) that each level quantized."""
        residuals, codes = [h_BD], []
        for codebook_KD in self.codebooks:
            codes.append(nearest(residuals[-1], codebook_KD))
            residuals.append(residuals[-1] - codebook_KD[codes[-1]])
        return torch.stack(codes, 1), h_BD - residuals[-1], residuals[:-1]

    @torch.no_grad()
    def decode(self, codes_BL: Tensor) -> Tensor:
        """z (B, D) of given codes."""
        chosen = [book[codes_BL[:, level]] for level, book in enumerate(self.codebooks)]
        return torch.stack(chosen).sum(0)


def squared_distances(x_BD: Tensor, codebook_KD: Tensor) -> Tensor:
    """||x - e_k||^2 as (B, K), by one matrix product."""
    return (
        x_BD.square().sum(1, keepdim=True) + codebook_KD.square().sum(1) - 2 * x_BD @ codebook_KD.T
    )


def nearest(x_BD: Tensor, codebook_KD: Tensor) -> Tensor:
    """Index of the nearest codeword, (B,); the first one if several are equally near."""
    return squared_distances(x_BD, codebook_KD).argmin(1)


def usage_gap(x_BD: Tensor, codebook_KD: Tensor) -> Tensor:
    """log K minus the entropy of the batch's mean soft assignment; 0 at uniform use."""
    distance_BK = squared_distances(x_BD, codebook_KD.detach())
    temperature = distance_BK.detach().min(1).values.mean().clamp_min(1e-6)
    usage_K = F.softmax(-distance_BK / temperature, 1).mean(0)
    return math.log(len(codebook_KD)) + (usage_K * usage_K.clamp_min(1e-12).log()).sum()
