"""The usual way to train a generative recommender, written plainly: the peer of `training`.

One example per target, with the history before it; random batches, padded on the left; logits of
the whole vocabulary at every position and transformers' own loss (LC-Rec, MiniOneRec).
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import send_to_device
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from dasrec.core import Corpus
from dasrec.generative import SequenceBuilder
from dasrec.generative.data.prefixes import last_item_only, prefix_windows
from dasrec.generative.data.tokens import IGNORE

Example = dict[str, list[int]]


def prefix_examples(corpus: Corpus, builder: SequenceBuilder) -> list[Example]:
    """One example per training interaction, as tokenised data sets hold them."""
    windows = prefix_windows(corpus, builder.prompt.max_history)
    rows = last_item_only(
        builder.render(windows.items, windows.users), builder.item_tokens.shape[1]
    )
    labels = rows.labels
    return [
        {"input_ids": rows.tokens[first:end].tolist(), "labels": labels[first:end].tolist()}
        for first, end in zip(rows.starts[:-1], rows.starts[1:], strict=True)
    ]


def collate(examples: list[Example]) -> dict[str, Tensor]:
    """Pads on the left."""

    def padded(rows: list[list[int]], value: int) -> Tensor:
        tensors = [torch.tensor(row) for row in rows]
        return pad_sequence(tensors, True, value, padding_side="left")

    ids = padded([row["input_ids"] for row in examples], 0)
    mask = padded([[1] * len(row["input_ids"]) for row in examples], 0)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": (mask.cumsum(1) - 1).clamp_min(0),
        "labels": padded([row["labels"] for row in examples], IGNORE),
    }


def train(
    model: Any, optimizer: torch.optim.Optimizer, examples: list[Example], batch_size: int
) -> Iterator[int]:
    """Steps without end; gives the targets of each."""
    torch.manual_seed(0)
    while True:
        for batch in DataLoader(examples, batch_size, shuffle=True, collate_fn=collate):  # type: ignore[arg-type]
            batch = send_to_device(batch, model.device)
            model(**batch, use_cache=False).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            yield len(batch["labels"])


@torch.no_grad()
def level_loss(
    model: Any, examples: list[Example], levels: tuple[tuple[int, ...], ...], batch_size: int = 64
) -> float:
    """Summed loss over the codes of each level, cut out of the whole vocabulary's logits."""
    total = 0.0
    for first in range(0, len(examples), batch_size):
        batch = send_to_device(collate(examples[first : first + batch_size]), model.device)
        labels = batch.pop("labels")
        logits = model(**batch, use_cache=False).logits
        for level, codes in enumerate(levels):
            place = -len(levels) + level  # padded on the left: the target ends each row
            among = logits[:, place - 1, list(codes)]
            target = (
                (labels[:, place, None] == torch.tensor(codes, device=labels.device))
                .long()
                .argmax(1)
            )
            total += float(F.cross_entropy(among, target, reduction="sum"))
    return total
