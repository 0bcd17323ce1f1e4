"""Rows on the training device.

Shape letters: M rows, C columns of the context.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dasrec.ranking.features import FeatureSchema
from dasrec.ranking.features.encode import encode_context
from dasrec.ranking.rows import Rows


class RowTensors(NamedTuple):
    """`Rows` as int64 and float32 tensors on the training device, the context encoded."""

    user_M: Tensor
    item_M: Tensor
    label_M: Tensor
    end_M: Tensor
    category_MC: Tensor
    number_MC: Tensor


def to_tensors(rows: Rows, schema: FeatureSchema, device: torch.device) -> RowTensors:
    """Copy rows to `device`, with their context encoded."""

    def tensor(column: npt.NDArray[Any], dtype: type[np.generic]) -> Tensor:
        return torch.from_numpy(np.array(column, dtype)).to(device)

    category, number = encode_context(schema, rows.context, len(rows.label))
    return RowTensors(
        tensor(rows.user_idx, np.int64),
        tensor(rows.item_idx, np.int64),
        tensor(rows.label, np.float32),
        tensor(rows.history_end, np.int64),
        tensor(category, np.int64),
        tensor(number, np.float32),
    )
