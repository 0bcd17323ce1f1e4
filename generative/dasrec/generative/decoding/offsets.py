"""Rising integers at two bytes each: where the children of every node of a trie begin.

Shape letters: N ranges, M blocks, R entries asked for (any shape).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_SHIFT = 6
_BLOCK = 1 << _SHIFT  # values that share a base; neighbours differ little: the rest is small


@dataclass(frozen=True, eq=False)
class Offsets:
    """N + 1 numbers that never fall; range n is `[n]` to `[n + 1]`."""

    base: Tensor
    """(M,) int32, of each block of values"""
    rest: Tensor
    """(N + 1,) int16 or int32: value less its block's base"""

    @classmethod
    def of(cls, values: npt.NDArray[np.integer]) -> "Offsets":
        """Compress N + 1 rising values below 2^31."""
        first = values[::_BLOCK].astype(np.int32)
        rest = values.astype(np.int32) - np.repeat(first, _BLOCK)[: len(values)]
        if rest.max() < 2**16:
            first, rest = first + 2**15, (rest - 2**15).astype(np.int16)
        return cls(torch.from_numpy(first), torch.from_numpy(rest))

    def __len__(self) -> int:
        """N."""
        return len(self.rest) - 1

    def __getitem__(self, index_R: Tensor) -> Tensor:
        """(R,) int64 values."""
        flat = index_R.flatten()  # index_select: four times as fast as indexing on a CPU
        values = self.base.index_select(0, flat >> _SHIFT).long()
        values += self.rest.index_select(0, flat)
        return values.view(index_R.shape)

    def dense(self) -> Tensor:
        """(N + 1,) int64 all values."""
        return self[torch.arange(len(self.rest), device=self.rest.device)]

    def to(self, device: torch.device | str) -> "Offsets":
        """The same on `device`."""
        return Offsets(self.base.to(device), self.rest.to(device))

    @property
    def nbytes(self) -> int:
        """Bytes of both tensors."""
        return self.base.nbytes + self.rest.nbytes
