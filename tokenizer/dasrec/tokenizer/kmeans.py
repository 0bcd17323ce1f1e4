"""Setting codebooks from data: residual k-means, and restarting codewords nobody uses.

Shape letters: N rows, L levels, K codebook size, D code dimension.
"""

import faiss
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dasrec.core import derive_seed, generator
from dasrec.tokenizer.quantizer import ResidualQuantizer, nearest

MAX_ROWS = 65_536  # k-means sees at most this many rows, drawn at random


@torch.no_grad()
def init_codebooks(quantizer: ResidualQuantizer, h_ND: Tensor, seed: int) -> None:
    """Set every codebook to the k-means centroids of the residuals that reach it.

    Args:
        quantizer: changed in place.
        h_ND: encoder output, for the whole catalogue where it fits.
        seed: k-means is a function of `h_ND` and this.
    """
    residual_ND = sample_rows(h_ND, seed).clone()
    for level, codebook_KD in enumerate(quantizer.codebooks):
        level_seed = derive_seed(seed, "kmeans", level)
        centroids_KD = kmeans(residual_ND.cpu().numpy(), len(codebook_KD), level_seed)
        quantizer.move(level, slice(None), torch.from_numpy(centroids_KD).to(h_ND.device))
        residual_ND -= codebook_KD[nearest(residual_ND, codebook_KD)]


def sample_rows(x_ND: Tensor, seed: int) -> Tensor:
    """At most MAX_ROWS rows, in order."""
    if len(x_ND) <= MAX_ROWS:
        return x_ND
    rows = generator(seed, "kmeans", "rows").choice(len(x_ND), MAX_ROWS, replace=False)
    return x_ND[torch.from_numpy(np.sort(rows))]


def kmeans(
    x_ND: npt.NDArray[np.float32], size: int, seed: int, iterations: int = 20
) -> npt.NDArray[np.float32]:
    """Centroids (K, D), by faiss."""
    # The bound on points per centroid is ours (MAX_ROWS); faiss' own would sample and warn.
    clusters = faiss.Kmeans(
        x_ND.shape[1],
        size,
        niter=iterations,
        seed=seed % 2**31,  # a C int
        min_points_per_centroid=1,
        max_points_per_centroid=len(x_ND),
    )
    clusters.train(np.ascontiguousarray(x_ND, np.float32))
    return np.asarray(clusters.centroids, np.float32)


@torch.no_grad()
def restart_unused(
    quantizer: ResidualQuantizer,
    codes_NL: Tensor,
    residuals: list[Tensor],
    optimizer: torch.optim.Optimizer,
    rng: np.random.Generator,
) -> int:
    """Move every codeword that no row uses onto a random residual of its level.

    Args:
        quantizer: changed in place.
        codes_NL: codes of the whole catalogue.
        residuals: one (N, D) per level, what that level quantized.
        optimizer: Adam's moments of a moved codeword belong to its old place and are cleared.
        rng: chooses the residuals.

    Returns:
        How many codewords moved.
    """
    moved = 0
    for level, codebook_KD in enumerate(quantizer.codebooks):
        count_K = torch.bincount(codes_NL[:, level], minlength=len(codebook_KD))
        unused = torch.nonzero(count_K == 0).flatten()
        rows = rng.choice(len(codes_NL), len(unused), replace=len(unused) > len(codes_NL))
        quantizer.move(level, unused, residuals[level][torch.from_numpy(rows).to(unused.device)])
        for moment in ("exp_avg", "exp_avg_sq"):
            if moment in optimizer.state.get(codebook_KD, {}):
                optimizer.state[codebook_KD][moment][unused] = 0
        moved += len(unused)
    return moved
