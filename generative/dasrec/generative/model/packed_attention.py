"""Attention inside the rows of a packed batch, for every family that asks transformers for it.

The linear layers see (1, P) tokens without padding. Attention alone is padded: its cost grows with
the square of a row's length, and a (P, P) mask over the whole batch would cost far more.

Shape letters: B rows, L tokens of the longest, P tokens of all rows, N heads, D head width.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

NAME = "dasrec_packed"
FLASH = "flash_attention"
"""Implementations that begin so read the same keywords and stay in place."""
SPREAD = 0.5
"""Rows whose lengths differ by less than this power of two are padded to one length."""


def packed_attention(
    module: nn.Module,
    query_1NPD: Tensor,
    key_1NPD: Tensor,
    value_1NPD: Tensor,
    attention_mask: None,
    *,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention, each row on its own; the signature is that of an AttentionInterface.

    Keys and values may have fewer heads than queries (grouped queries).

    Args:
        module: the layer; not used.
        query_1NPD: queries, and so on.
        key_1NPD: after the rotation by their positions.
        value_1NPD: values.
        attention_mask: None; the rows' starts say it all.
        cu_seq_lens_q: (B + 1,) where rows start.
        max_length_q: L.
        dropout: of the attention weights.
        scaling: factor of the scores; None is D^-0.5.
        sliding_window: how many tokens a token sees, itself included.
        softcap: bound of the scores (Gemma 2).

    Returns:
        (1, P, N, D), and no weights.
    """
    groups = _groups(cu_seq_lens_q.long(), max_length_q, query_1NPD.shape[2])
    tokens = [part.tokens for part in groups]
    sides = (x.split(tokens, 2) for x in (query_1NPD, key_1NPD, value_1NPD))
    outputs = []
    for part, query, key, value in zip(groups, *sides, strict=True):
        q, k, v = (_unpack(x, part) for x in (query, key, value))
        out = _attend(q, k, v, dropout, scaling, sliding_window, softcap)
        flat = out.transpose(1, 2).reshape(part.rows * part.length, -1)
        flat = flat.index_select(0, part.place)
        outputs.append(flat.view(1, part.tokens, out.shape[1], out.shape[3]))
    return torch.cat(outputs, 1), None


class _Group(NamedTuple):
    """Neighbouring rows that are padded to one length."""

    rows: int
    tokens: int
    length: int
    place: Tensor
    """(tokens,) where each token goes among rows * length places."""


def _groups(starts: Tensor, longest: int, tokens: int) -> list[_Group]:
    """Rows of about the same length together; on an accelerator all rows, without asking it."""
    if starts.device.type != "cpu":
        return [_group(starts, longest, tokens)]
    lengths = starts.diff()
    size_class = (lengths.log2() / SPREAD).floor()
    cuts = [0, *(size_class.diff().nonzero().flatten() + 1).tolist(), len(lengths)]
    return [
        _group(
            starts[first : end + 1] - starts[first],
            int(lengths[first:end].max()),
            int(starts[end] - starts[first]),
        )
        for first, end in pairwise(cuts)
    ]


def _group(starts: Tensor, length: int, tokens: int) -> _Group:
    rows = len(starts) - 1
    shift = torch.arange(rows, device=starts.device) * length - starts[:-1]
    place = torch.repeat_interleave(shift, starts.diff(), output_size=tokens)
    return _Group(rows, tokens, length, place + torch.arange(tokens, device=starts.device))


def _unpack(x_1NPD: Tensor, part: _Group) -> Tensor:
    """(B, N, L, D) with zeros after the end of each row."""
    heads, tokens, width = x_1NPD.shape[1:]
    flat = x_1NPD[0].transpose(0, 1).reshape(tokens, heads * width)
    padded = flat.new_zeros(part.rows * part.length, heads * width).index_copy(0, part.place, flat)
    return padded.view(part.rows, part.length, heads, width).transpose(1, 2)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout: float,
    scaling: float | None,
    sliding_window: int | None,
    softcap: float | None,
) -> Tensor:
    """Causal attention of (B, N, L, D) queries on keys and values of as many heads or fewer."""
    length = query.shape[2]
    if key.shape[1] < query.shape[1]:
        groups = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
    if softcap is None and (sliding_window is None or sliding_window >= length):
        return F.scaled_dot_product_attention(
            query, key, value, None, dropout, is_causal=True, scale=scaling
        )
    mask = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
    if sliding_window is not None:
        mask = mask.triu(1 - sliding_window)
    if softcap is None:
        return F.scaled_dot_product_attention(query, key, value, mask, dropout, scale=scaling)
    scores = query @ key.transpose(2, 3) * (scaling or query.shape[-1] ** -0.5)
    scores = (softcap * torch.tanh(scores / softcap)).masked_fill(~mask, -torch.inf)
    weights = F.dropout(scores.softmax(-1, dtype=torch.float32).to(value.dtype), dropout)
    return weights @ value


AttentionInterface.register(NAME, packed_attention)


@contextmanager
def packed_batches(model: Any) -> Iterator[None]:
    """Let a (PEFT-wrapped) model run on packed batches, and only on those, inside the context."""
    inner: PreTrainedModel = model.get_base_model() if isinstance(model, PeftModel) else model
    own = inner.config._attn_implementation
    if own is not None and own.startswith(FLASH):
        yield
        return
    inner.set_attn_implementation(NAME)
    try:
        yield
    finally:
        inner.set_attn_implementation(own)


@torch.no_grad()
def check_packed(model: Any, longest: int) -> None:
    """Run two rows packed and one by one, and refuse a model that does not give the same.

    Layers that are no causal attention (state spaces, chunks, sinks) would carry one user's
    tokens over into the next user's.

    Flash attention, which may not run where the model lies before training, is not asked.

    Args:
        model: a (PEFT-wrapped) causal LM; left in the mode it came in.
        longest: tokens of the longest training row.

    Raises:
        ValueError: packed rows give other hidden states than the rows alone.
    """
    config = model.config.get_text_config()
    if (model.config._attn_implementation or "").startswith(FLASH):
        return
    device = model.get_input_embeddings().weight.device
    window = getattr(config, "sliding_window", None) or 0
    lengths = (min(longest, window + 3), min(longest, 4))
    ids_P = torch.arange(sum(lengths), device=device) % min(97, config.vocab_size)
    parts = ids_P.split(lengths)
    starts = torch.tensor([0, lengths[0], len(ids_P)], dtype=torch.int32, device=device)
    was_training = model.training
    model.eval()
    try:
        alone = [last_hidden(model, {"input_ids": part[None]}) for part in parts]
        packed = {
            "input_ids": ids_P[None],
            "position_ids": torch.cat([torch.arange(n, device=device) for n in lengths])[None],
            **{f"cu_seq_lens_{side}": starts for side in "qk"},
            **{f"max_length_{side}": max(lengths) for side in "qk"},
        }
        with packed_batches(model):
            together = last_hidden(model, packed)
        expected = torch.cat(alone, 1).float()
        error = float((together.float() - expected).norm() / expected.norm())
        reason = f"hidden states differ by {error:.1e}"
    except TypeError as problem:  # its forward takes no such keywords
        error, reason = torch.inf, str(problem)
    finally:
        model.train(was_training)
    kinds = set(getattr(config, "layer_types", None) or ())
    if other := sorted(kinds - {"full_attention", "sliding_attention"}):
        error, reason = torch.inf, f"it has layers of {', '.join(other)}"
    if not error < (1e-4 if model.dtype == torch.float32 else 0.05):
        raise ValueError(
            f"batching: {config.model_type} cannot train on packed rows ({reason}); "
            "set batching: padded"
        )


def last_hidden(model: Any, inputs: dict[str, Any]) -> Tensor:
    """(B, T, H) hidden states after the final norm.

    The model runs as a whole, so that the hooks of distributed wrappers fire, but makes no logits.
    """
    none = torch.empty(0, dtype=torch.int64, device=inputs["input_ids"].device)
    outputs = model(**inputs, output_hidden_states=True, logits_to_keep=none, use_cache=False)
    hidden: Tensor = outputs.hidden_states[-1]
    return hidden
