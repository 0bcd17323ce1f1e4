"""A batch of rows as tensors: packed into one row, or padded to a rectangle.

Shape letters: B rows, T tokens of the longest row, P tokens of all rows.
"""

from typing import Any

import numpy as np
import torch

from dasrec.generative.data.batches import FlatRows
from dasrec.generative.data.tokens import IGNORE


def hide_users(rows: FlatRows, user_token: int, anonymous_token: int, prefix: int) -> FlatRows:
    """Replace the user's SID by `anonymous_token` where `rows.hidden` says so.

    A user's SID is learned from the same interactions that the sequence asks for. Hiding it now
    and then keeps the model from leaning on it, and teaches prompts without a known user.

    Args:
        rows: the batch.
        user_token: first token of a row that begins with a user's SID; others stay as they are.
        anonymous_token: what takes its place.
        prefix: tokens of a user's SID and its `user_token`.
    """
    first = rows.starts[:-1]
    hidden = rows.hidden & (rows.tokens[first] == user_token)
    tokens, labels = rows.tokens.copy(), rows.labels.copy()
    last = first[hidden] + prefix - 1
    tokens[last], labels[last] = anonymous_token, IGNORE
    kept = np.ones(len(tokens), np.bool_)
    kept[first[hidden, None] + np.arange(prefix - 1)] = False
    removed = np.concatenate([[0], np.cumsum(hidden * (prefix - 1))])
    return FlatRows(tokens[kept], labels[kept], rows.starts - removed, np.zeros_like(hidden))


def pad(rows: FlatRows, pad_token_id: int) -> dict[str, torch.Tensor]:
    """input_ids and labels (B, T), padded on the right; causal attention needs no mask for that."""
    lengths = np.diff(rows.starts)
    real = np.arange(lengths.max()) < lengths[:, None]
    input_ids, labels = np.full(real.shape, pad_token_id), np.full(real.shape, IGNORE)
    input_ids[real], labels[real] = rows.tokens, rows.labels
    return {"input_ids": torch.from_numpy(input_ids), "labels": torch.from_numpy(labels)}


def pack(rows: FlatRows) -> dict[str, Any]:
    """All rows in one, the short ones first: attention pads neighbours to one length.

    Returns:
        input_ids, labels and position_ids (1, P); positions restart with each row. cu_seq_lens_q
        and cu_seq_lens_k (B + 1,) int32 say where the rows start and max_length_q and
        max_length_k how long the longest is: the keywords of transformers' flash attention.
    """
    rows = _by_length(rows)
    lengths = np.diff(rows.starts)
    labels = rows.labels.copy()
    labels[rows.starts[:-1]] = IGNORE  # a first token follows nothing, least of all another row
    positions = np.arange(len(rows.tokens)) - np.repeat(rows.starts[:-1], lengths)
    starts = torch.from_numpy(rows.starts.astype(np.int32))
    longest = int(lengths.max())
    return {
        "input_ids": torch.from_numpy(rows.tokens)[None],
        "labels": torch.from_numpy(labels)[None],
        "position_ids": torch.from_numpy(positions)[None],
        "cu_seq_lens_q": starts,
        "cu_seq_lens_k": starts,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def _by_length(rows: FlatRows) -> FlatRows:
    lengths = np.diff(rows.starts)
    order = np.argsort(lengths, kind="stable")
    starts = np.concatenate([[0], np.cumsum(lengths[order])])
    flat = np.arange(starts[-1]) + np.repeat(rows.starts[:-1][order] - starts[:-1], lengths[order])
    return FlatRows(rows.tokens[flat], rows.labels[flat], starts, rows.hidden[order])


class Collator:
    """Makes the tensors of a batch; packed or padded."""

    def __init__(
        self,
        pad_token_id: int,
        user_token: int,
        anonymous_token: int,
        prefix: int,
        *,
        packed: bool,
    ) -> None:
        """Remember the tokens; `prefix` counts those that name a known user."""
        self.pad_token_id = pad_token_id
        self.user_token, self.anonymous_token = user_token, anonymous_token
        self.prefix, self.packed = prefix, packed

    def __call__(self, rows: FlatRows) -> dict[str, Any]:
        """Hide users, then pack or pad."""
        if rows.hidden.any():
            rows = hide_users(rows, self.user_token, self.anonymous_token, self.prefix)
        return pack(rows) if self.packed else pad(rows, self.pad_token_id)
