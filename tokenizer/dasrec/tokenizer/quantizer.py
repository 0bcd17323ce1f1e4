"""Residual quantization (RQ-VAE, arXiv 2203.01941; das-method 1.1).

    r^1 = h;   c^l = argmin_k ||r^l - e^l_k||^2;   r^{l+1} = r^l - sg[e^l_{c^l}]
    z = sum_l e^l_{c^l}

Shape letters: B batch, N rows, L levels, K codebook size, D code dimension.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dasrec.tokenizer.balance import balanced, usage_gap
from dasrec.tokenizer.config import AutoencoderConfig


class Quantized(NamedTuple):
    """What quantizing a batch gives."""

    codes_BL: Tensor
    """int64."""
    quantized_BD: Tensor
    """z in value, h in gradient: h + sg[z - h]."""
    losses: dict[str, Tensor]
    """By name:

    codebook: sum_l mean_B ||sg[r^l] - e^l||^2, moves the codewords (not with EMA codebooks).
    commitment: sum_l mean_B ||r^l - sg[e^l]||^2, moves the encoder. Because the residual subtracts
        sg[e], every level's term reaches it (public code that subtracts the straight-through
        codeword keeps level 1 only).
    entropy: sum_l (log K - H(mean_B softmax_k(-d_k / t))), t = mean_B min_k d_k, where asked for.
    """


class Encoded(NamedTuple):
    """What a side gives for its catalogue."""

    codes_NL: Tensor
    """int64."""
    z_ND: Tensor
    """Sum of the chosen codewords."""
    residual_ND: Tensor
    """r^L, what the last level quantized."""
    h_ND: Tensor
    """What the first level quantized."""


class ResidualQuantizer(nn.Module):
    """L codebooks, each quantizing what the levels before it left over."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        learned = config.codebook_update == "gradient"
        self.codebooks = nn.ParameterList(
            nn.Parameter(torch.randn(size, config.code_dim) / math.sqrt(config.code_dim), learned)
            for size in config.level_sizes
        )
        last = len(config.level_sizes) - 1
        self._balanced = {"none": range(0), "last": range(last, last + 1), "all": range(last + 1)}[
            config.sinkhorn
        ]
        self.ema = nn.ModuleList() if learned else nn.ModuleList(map(Ema, self.codebooks))

    def forward(self, h_BD: Tensor, keep_B: Tensor | None = None) -> Quantized:
        """Quantize `h_BD` and give the losses that train codewords and encoder.

        Args:
            h_BD: encoder output.
            keep_B: levels that count in z, per row (PLUM's progressive masking); None = all.
        """
        residual_BD, z_BD = h_BD, torch.zeros_like(h_BD)
        losses = dict.fromkeys(self._terms(), h_BD.new_zeros(()))
        codes = []
        for level, codebook_KD in enumerate(self.codebooks):
            with torch.no_grad():
                distance_BK = squared_distances(residual_BD, codebook_KD)
                codes_B = (
                    balanced(distance_BK, self.config.sinkhorn_epsilon)
                    if level in self._balanced
                    else distance_BK.argmin(1)
                )
            chosen_BD = codebook_KD[codes_B]
            losses["commitment"] = losses["commitment"] + _mean_square(
                residual_BD - chosen_BD.detach()
            )
            if "codebook" in losses:
                losses["codebook"] = losses["codebook"] + _mean_square(
                    residual_BD.detach() - chosen_BD
                )
            if "entropy" in losses:
                words_KD = codebook_KD.detach().clone()  # EMA moves it
                soft_BK = squared_distances(residual_BD, words_KD)
                losses["entropy"] = losses["entropy"] + usage_gap(soft_BK)
            if self.training and len(self.ema):
                average = self.ema[level]
                average(codebook_KD, codes_B, residual_BD.detach(), self.config.ema_decay)
            codes.append(codes_B)
            chosen_BD = chosen_BD.detach()
            z_BD = z_BD + (chosen_BD if keep_B is None else chosen_BD * (keep_B > level)[:, None])
            residual_BD = residual_BD - chosen_BD
        return Quantized(torch.stack(codes, 1), h_BD + (z_BD - h_BD).detach(), losses)

    def _terms(self) -> list[str]:
        names = ["commitment"]
        if self.config.codebook_update == "gradient":
            names.append("codebook")
        if self.config.entropy > 0:
            names.append("entropy")
        return names

    @torch.no_grad()
    def encode(self, h_BD: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Codes (B, L), z (B, D), and the residual r^l (B, D) that each level quantized."""
        residuals, codes = [h_BD], []
        for codebook_KD in self.codebooks:
            codes.append(nearest(residuals[-1], codebook_KD))
            residuals.append(residuals[-1] - codebook_KD[codes[-1]])
        return torch.stack(codes, 1), h_BD - residuals[-1], residuals[:-1]

    @torch.no_grad()
    def move(self, level: int, rows: Tensor | slice, words_KD: Tensor) -> None:
        """Put codewords elsewhere, with their moving averages where there are any."""
        self.codebooks[level][rows] = words_KD
        if len(self.ema):
            ema = self.ema[level]
            assert isinstance(ema, Ema)
            ema.reset(rows, words_KD)

    @torch.no_grad()
    def decode(self, codes_BL: Tensor) -> Tensor:
        """z (B, D) of given codes."""
        chosen = [book[codes_BL[:, level]] for level, book in enumerate(self.codebooks)]
        return torch.stack(chosen).sum(0)


class Ema(nn.Module):
    """Moving averages that set one codebook (VQ-VAE-2; das-method 4.2).

    N_k <- g N_k + (1-g) n_k;   m_k <- g m_k + (1-g) sum_{c(b)=k} r_b;   e_k = m_k / N_k
    """

    count_K: Tensor
    sum_KD: Tensor

    def __init__(self, codebook_KD: Tensor) -> None:
        super().__init__()
        self.register_buffer("count_K", torch.ones(len(codebook_KD)))
        self.register_buffer("sum_KD", codebook_KD.detach().clone())

    @torch.no_grad()
    def forward(self, codebook_KD: Tensor, codes_B: Tensor, r_BD: Tensor, decay: float) -> None:
        """Fold in a batch and set the codebook. A codeword that fades out keeps its place."""
        drawn_K = torch.bincount(codes_B, minlength=len(codebook_KD)).to(r_BD.dtype)
        sum_KD = torch.zeros_like(self.sum_KD).index_add_(0, codes_B, r_BD)
        self.count_K.lerp_(drawn_K, 1 - decay)
        self.sum_KD.lerp_(sum_KD, 1 - decay)
        live = self.count_K > 1e-3
        codebook_KD[live] = self.sum_KD[live] / self.count_K[live, None]

    @torch.no_grad()
    def reset(self, rows: Tensor | slice, words_KD: Tensor) -> None:
        """Start codewords afresh at `words_KD`, as if each had just been drawn once."""
        self.count_K[rows] = 1
        self.sum_KD[rows] = words_KD


def _mean_square(x_BD: Tensor) -> Tensor:
    return x_BD.square().sum(1).mean()


def squared_distances(x_BD: Tensor, codebook_KD: Tensor) -> Tensor:
    """||x - e_k||^2 as (B, K), by one matrix product."""
    return torch.addmm(
        x_BD.square().sum(1, keepdim=True) + codebook_KD.square().sum(1),
        x_BD,
        codebook_KD.T,
        alpha=-2,
    )


def nearest(x_BD: Tensor, codebook_KD: Tensor) -> Tensor:
    """Index of the nearest codeword, (B,); the first one if several are equally near.

    ||x||^2 is the same for all codewords and left out.
    """
    return torch.addmm(codebook_KD.square().sum(1), x_BD, codebook_KD.T, alpha=-2).argmin(1)
