"""SIDs that were made elsewhere, e.g. those that LETTER or MiniOneRec published.

The codes come from a column of the items; codewords are fitted to the content so that z exists:

    e^l_k = mean of r^l over the items whose code at level l is k;   r^(l+1) = r^l - e^l_c

Shape letters: I items, L levels, K codebook size, D code dimension.
"""

import re
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor, nn

from dasrec.core import StageConfig
from dasrec.tokenizer.additive import Additive, ClosedForm
from dasrec.tokenizer.config import Modalities
from dasrec.tokenizer.objective import Data, Sides, Sizes
from dasrec.tokenizer.quantizer import Encoded

CODE = re.compile(r"(\d+)>")


class ImportedConfig(StageConfig):
    """Codes from a column of the items."""

    method: Literal["imported"] = "imported"
    """This method."""
    modalities: Modalities = None
    """Item modalities (names in the embeddings) to fit codewords to; null: the first one."""
    column: str
    """Column of the items: text such as `<a_183><b_70><c_232>`, or lists of integers. Name it in
    prepare.items.keep. A level has as many codewords as its highest code needs."""


class Listed(Additive):
    """The codes of a fixed catalogue, row by row."""

    codes_IL: Tensor

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__((), widths)
        self.register_buffer("codes_IL", torch.zeros((0, 0), dtype=torch.int64))
        self.register_load_state_dict_pre_hook(_take_shapes)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def store(self, codes_IL: Tensor, x_IX: Tensor) -> None:
        """Keep the codes and fit the codewords."""
        self.codes_IL, residual_ID = codes_IL, self.target(x_IX)
        for codes_I in codes_IL.T:
            words_KD = residual_ID.new_zeros(int(codes_I.max()) + 1, self.width)
            count_K = torch.bincount(codes_I)
            words_KD.index_add_(0, codes_I, residual_ID)
            words_KD /= count_K.clamp_min(1)[:, None]
            self.words.append(nn.Parameter(words_KD, requires_grad=False))
            residual_ID = residual_ID - words_KD[codes_I]

    @torch.no_grad()
    def quantize(self, x_NX: Tensor) -> Encoded:
        """The listed codes.

        Raises:
            ValueError: other rows than those of the catalogue.
        """
        if len(x_NX) != len(self.codes_IL):
            raise ValueError(
                f"imported: SIDs were imported for {len(self.codes_IL)} items, got {len(x_NX)} "
                "rows; items without an imported SID cannot be given one: train another method"
            )
        return self.stand_for(self.codes_IL, self.target(x_NX))


def _take_shapes(module: nn.Module, state: dict[str, Any], prefix: str, *unused: Any) -> None:
    """Sizes come from the data: make room for the stored ones."""
    del unused
    assert isinstance(module, Listed)
    module.codes_IL = torch.empty_like(state[f"{prefix}codes_IL"])
    levels = module.codes_IL.shape[1]
    module.words = nn.ParameterList(
        nn.Parameter(torch.empty_like(state[f"{prefix}words.{level}"]), requires_grad=False)
        for level in range(levels)
    )


def imported_sides(config: ImportedConfig, sizes: Sizes) -> Sides:
    """Items only."""
    return Sides(Listed(sizes.item_widths))


class Imported(ClosedForm):
    """Reads the column."""

    def __init__(self, config: ImportedConfig, sides: Sides, data: Data) -> None:
        super().__init__(sides, data)
        self.codes_IL = read_codes(data.corpus.items, config.column)

    def fit(self, seed: int) -> None:
        """Nothing is random."""
        codes_IL = torch.from_numpy(self.codes_IL).to(self.data.items_IX.device)
        self.sides.items.store(codes_IL, self.data.items_IX)


def read_codes(items: pl.DataFrame, column: str) -> npt.NDArray[np.int64]:
    """(I, L) codes of a column of the items.

    Raises:
        ValueError: no such column, an item without a SID, one of another length than the first
            item's, or a code that is negative or does not fit uint16.
    """
    where = f"tokenizer.column: items.{column}"
    if column not in items.columns:
        raise ValueError(
            f"tokenizer.column: the items have no column '{column}' ({', '.join(items.columns)}); "
            "add it to prepare.items.keep"
        )
    sids = items[column]
    if sids.dtype == pl.String:
        lists = sids.str.extract_all(CODE.pattern).list.eval(
            pl.element().str.strip_chars_end(">").cast(pl.Int64)
        )
    elif isinstance(sids.dtype, pl.List | pl.Array) and sids.dtype.inner.is_integer():
        lists = sids.cast(pl.List(pl.Int64))
    else:
        raise ValueError(f"{where}: expected text or lists of integers, got {sids.dtype}")
    length = lists.list.len().fill_null(0)
    levels = max(int(length[0]), 1)
    wrong = ((length != levels) | lists.list.eval(pl.element().is_null()).list.any()).arg_true()
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(
            f"{where}, row {row} (item {items['item_id'][row]}): expected {levels} codes, got "
            f"{sids[row]!r} ({len(wrong)} such rows); every item needs a SID"
        )
    codes_IL = lists.explode().to_numpy().reshape(-1, levels).astype(np.int64)
    if codes_IL.min() < 0 or codes_IL.max() > 65_535:
        raise ValueError(
            f"{where}: codes are integers from 0 to 65535, got {codes_IL.min()} to {codes_IL.max()}"
        )
    return codes_IL
