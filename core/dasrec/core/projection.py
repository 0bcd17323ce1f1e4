"""PCA of embeddings, fitted once and kept. Shape letters: N vectors, D width, K components."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dasrec.core.encoders import normalise

Floats = npt.NDArray[np.float32]

BLOCK = 65_536
"""Rows projected at a time."""


@dataclass(frozen=True)
class Projection:
    """Principal components."""

    mean: Floats
    """(D,)"""
    components: Floats
    """(K, D)"""

    def __call__(self, vectors: Floats) -> Floats:
        """(N, D) -> (N, K), rows of unit length; zero rows (nothing known) stay zero."""
        from scipy.sparse import csr_array

        projected = np.zeros((len(vectors), len(self.components)), np.float32)
        for start in range(0, len(vectors), BLOCK):
            rows = vectors[start : start + BLOCK]
            # A dense product rounds by the shape of the whole matrix; this one row by row, so
            # that an item has the same bytes in every catalogue.
            centred = csr_array(rows - self.mean)
            projected[start : start + BLOCK] = normalise(centred @ self.components.T)
        projected[~vectors.any(axis=1)] = 0
        return projected

    def save(self, folder: Path) -> None:
        """Write mean.npy and components.npy."""
        np.save(folder / "mean.npy", self.mean)
        np.save(folder / "components.npy", self.components)

    @classmethod
    def load(cls, folder: Path) -> "Projection":
        """Read what `save` wrote."""
        return cls(np.load(folder / "mean.npy"), np.load(folder / "components.npy"))


def fit_pca(vectors: Floats, dim: int, section: str) -> Projection:
    """The first `dim` principal components of the rows that are not zero.

    Raises:
        ValueError: fewer such rows, or columns, than `dim`.
    """
    from sklearn.decomposition import PCA

    known = vectors[vectors.any(axis=1)]
    if dim > min(known.shape):
        raise ValueError(
            f"embed.{section}.pca_dim: {dim} is more than the {known.shape[0]} vectors of width "
            f"{known.shape[1]} allow; choose a smaller one"
        )
    fitted = PCA(dim, svd_solver="covariance_eigh").fit(known)
    return Projection(fitted.mean_.astype(np.float32), fitted.components_.astype(np.float32))
