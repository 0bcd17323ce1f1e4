"""A side without an encoder: codewords as wide as the content, z their sum.

Shape letters: N rows, X input width, D code dimension, L levels, K codebook size.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dasrec.core import derive_seed
from dasrec.tokenizer.autoencoder import ROWS, unit
from dasrec.tokenizer.kmeans import sample_rows
from dasrec.tokenizer.objective import Objective, Phase, Step
from dasrec.tokenizer.quantizer import Encoded, nearest
from dasrec.tokenizer.report import perplexity

Floats = npt.NDArray[np.float32]
Fit = Callable[[Floats, int, int], Floats]
"""(N, D) residuals, K and a seed -> (K, D) codewords."""


class Additive(nn.Module):
    """Residual quantization of the content itself; codewords are set in closed form."""

    def __init__(
        self,
        level_sizes: tuple[int, ...],
        widths: tuple[int, ...],
        front: nn.Sequential | None = None,
    ) -> None:
        """Make room for the codewords.

        Args:
            level_sizes: K of each level.
            widths: of the modalities that stand side by side in x.
            front: trained before and frozen: unit(front(x)) is quantized in place of x.
        """
        super().__init__()
        self.widths, self.front = widths, front
        self.width = sum(widths)
        if front is not None:
            last = front[-1]
            assert isinstance(last, nn.Linear)
            self.width = last.out_features
        self.words = nn.ParameterList(
            nn.Parameter(torch.zeros(size, self.width), requires_grad=False) for size in level_sizes
        )

    @torch.no_grad()
    def target(self, x_NX: Tensor) -> Tensor:
        """What is quantized, (N, D), of unit length."""
        x_NX = unit(x_NX, self.widths)
        return x_NX if self.front is None else F.normalize(self.front(x_NX))

    @property
    def codebooks(self) -> list[Tensor]:
        """(K, D) of each level."""
        return [words.detach() for words in self.words]

    def codes(self, x_NX: Tensor, h_ND: Tensor) -> Tensor:
        """(N, L): at each level the codeword nearest to what is left of h."""
        del x_NX
        codes, residual_ND = [], h_ND
        for words_KD in self.codebooks:
            codes.append(nearest(residual_ND, words_KD))
            residual_ND = residual_ND - words_KD[codes[-1]]
        return torch.stack(codes, 1)

    @torch.no_grad()
    def quantize(self, x_NX: Tensor) -> Encoded:
        """Codes and what they stand for, in batches."""
        parts = []
        for x in torch.split(x_NX, ROWS):
            h_ND = self.target(x)
            parts.append(self.stand_for(self.codes(x, h_ND), h_ND))
        return Encoded(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def stand_for(self, codes_NL: Tensor, h_ND: Tensor) -> Encoded:
        """Given codes with their z, and the residual that the last of them quantized."""
        chosen = [words[codes_NL[:, level]] for level, words in enumerate(self.codebooks)]
        z_ND = torch.stack(chosen).sum(0)
        return Encoded(codes_NL, z_ND, h_ND - z_ND + chosen[-1], h_ND)

    @torch.no_grad()
    def reconstruction_error(self, x_NX: Tensor, z_ND: Tensor) -> float:
        """Mean of ||h - z||^2 for unit h."""
        pairs = zip(torch.split(x_NX, ROWS), torch.split(z_ND, ROWS), strict=True)
        total = sum((self.target(x) - z).square().sum(dtype=torch.float64) for x, z in pairs)
        return float(total) / len(x_NX)


class ClosedForm(Objective):
    """A method whose item side is set at once, without steps."""

    @abstractmethod
    def fit(self, seed: int) -> None:
        """Set `sides.items`."""

    @property
    def phases(self) -> list[Phase]:
        """None."""
        return []

    def batches(self, phase: str, rng: np.random.Generator) -> Iterator[Any]:
        """None."""
        yield from ()

    def losses(self, batch: Any, step: Step) -> dict[str, Tensor]:
        """None."""
        return {}

    @torch.no_grad()
    def finish(self, seed: int) -> dict[str, float]:
        """Fit; how the codewords are used."""
        self.fit(seed)
        side = self.sides.items
        return census(side.quantize(self.data.items_IX).codes_NL, side.codebooks)


@torch.no_grad()
def fit_levels(side: Additive, x_NX: Tensor, fits: Iterable[Fit], seed: int) -> Tensor:
    """Set the first levels' codewords one after the other: `fits`, each on what is left over.

    Returns:
        (N, D) the residuals after them, of the rows that were used.
    """
    rows_NX = sample_rows(x_NX, seed)
    residual_ND = torch.cat([side.target(x) for x in torch.split(rows_NX, ROWS)])
    for level, fit in enumerate(fits):
        words_KD = side.words[level]
        level_seed = derive_seed(seed, "kmeans", level)
        found_KD = fit(residual_ND.cpu().numpy(), len(words_KD), level_seed)
        words_KD.copy_(torch.from_numpy(found_KD))
        residual_ND = residual_ND - words_KD[nearest(residual_ND, words_KD)]
    return residual_ND


def census(codes_NL: Tensor, codebooks: list[Tensor]) -> dict[str, float]:
    """Share of codewords in use, and their perplexity, of each level."""
    metrics: dict[str, float] = {}
    for level, book in enumerate(codebooks):
        count_K = np.bincount(codes_NL[:, level].cpu().numpy(), minlength=len(book))
        metrics[f"item/usage_{level}"] = float((count_K > 0).mean())
        metrics[f"item/perplexity_{level}"] = perplexity(count_K)
    return metrics
