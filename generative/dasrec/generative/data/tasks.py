"""The training rows of all tasks, written to disk part by part and read through memory maps."""

import logging
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from datasets import Dataset

from dasrec.core import Corpus
from dasrec.generative.data.config import DataConfig
from dasrec.generative.data.prefixes import last_item_only, prefix_windows
from dasrec.generative.data.sequences import (
    SequenceBuilder,
    as_table,
    hide_times,
    training_windows,
)
from dasrec.generative.data.text_tasks import TextTasks
from dasrec.generative.data.tokens import IGNORE, TokenSequences

log = logging.getLogger(__name__)

PART = 10_000
"""Windows, items or users rendered at a time: what bounds the memory."""


class TaskRows(NamedTuple):
    """The rows of a task."""

    name: str
    rows: Dataset
    """Columns input_ids and labels, memory-mapped."""
    lengths: npt.NDArray[np.int64]
    """Tokens of each row."""
    targets: int
    """Labelled tokens of all rows."""
    share: float
    """Share of the rows that is drawn in an epoch."""


class _Source(NamedTuple):
    """Where a task's rows come from."""

    task: str
    """Name of its weight."""
    size: int
    """Windows, items or users that it runs through."""
    render: Callable[[int, int], TokenSequences]
    """The rows of a range of them."""


def training_rows(
    config: DataConfig,
    corpus: Corpus,
    builder: SequenceBuilder,
    tokenizer: Any,
    folder: Path,
    *,
    max_tokens: int | None,
    seed: int,
) -> list[TaskRows]:
    """Write the rows of every task that has a weight, and open them.

    Only training interactions and catalogue texts are read. What is rendered does not depend on
    the size of the parts.

    Args:
        config: the tasks and their weights.
        corpus: whose training interactions are used.
        builder: renders histories.
        tokenizer: of the language model.
        folder: of the row files, one per task; the stage's work directory.
        max_tokens: the model's positions; None = no bound.
        seed: of all that is drawn.

    Returns:
        One entry per task that has rows, in a fixed order.

    Raises:
        ValueError: a task that the semantic IDs or the corpus cannot serve.
    """
    shares = config.tasks.model_dump()
    if shares["user_to_preferences"] and builder.user_tokens is None:
        raise ValueError(
            "tasks.user_to_preferences: needs user SIDs, but the semantic IDs (or the prompt "
            "format) have none; set it to 0 or train a tokenizer with a user side"
        )
    if config.tasks.reads_text and not builder.vocabulary.has_text:
        raise ValueError(
            "tasks: the base model has no text tokens (sid_vocabulary_only), but "
            f"{', '.join(n for n, share in shares.items() if share and n != 'next_item')} "
            "need them; set these to 0 or keep the text tokens"
        )
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for source in _sources(config, corpus, builder, tokenizer, max_tokens, seed):
        if share := shares[source.task]:
            path = folder / f"{source.render.__name__}.arrow"
            lengths, targets = _write(source, path)
            if not len(lengths):
                continue
            rows = Dataset.from_file(str(path))
            found.append(TaskRows(source.task, rows, lengths, targets, share))
    if not found:
        chosen = ", ".join(name for name, share in shares.items() if share)
        raise ValueError(f"tasks: the corpus has no training row for {chosen}; choose other tasks")
    told = {task.name for task in found}
    for name, share in shares.items():
        if share and name not in told:
            log.warning("tasks.%s: the corpus has no row for it; it is left out", name)
    return found


def _sources(
    config: DataConfig,
    corpus: Corpus,
    builder: SequenceBuilder,
    tokenizer: Any,
    max_tokens: int | None,
    seed: int,
) -> list[_Source]:
    max_history = builder.prompt.max_history
    windows = hide_times(training_windows(corpus, max_history), seed)
    prefixes = config.rows == "prefixes"
    asked = hide_times(prefix_windows(corpus, max_history), seed) if prefixes else windows

    def next_item(first: int, end: int) -> TokenSequences:
        part = asked.part(first, end)
        rows = builder.render(part.items, part.users, times=part.times)
        return last_item_only(rows, builder.item_tokens.shape[1]) if prefixes else rows

    text = TextTasks(
        corpus,
        builder,
        tokenizer,
        windows,
        max_text_tokens=config.max_text_tokens,
        max_tokens=max_tokens,
        seed=seed,
    )
    items, number = corpus.num_items, len(windows.users)
    return [
        _Source("next_item", len(asked.users), next_item),
        _Source("item_to_text", items, text.item_to_text),
        _Source("text_to_item", items, text.text_to_item),
        _Source("titles_to_item", number, text.titles_to_item),
        _Source("history_to_text", number, text.history_to_text),
        _Source("intention_to_item", number, text.intention_after_history),
        _Source("intention_to_item", items, text.intention_alone),
        _Source("user_to_preferences", corpus.num_users, text.user_to_preferences),
        _Source("explain", number, text.explain),
    ]


def _write(source: _Source, path: Path) -> tuple[npt.NDArray[np.int64], int]:
    """Write a source's rows as an Arrow stream; returns each row's tokens and all targets.

    Several processes may write the same file: each its own, and the last one stays.
    """
    scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    lengths, targets = [np.empty(0, np.int64)], 0
    schema = as_table(source.render(0, 0)).schema
    with pa.OSFile(str(scratch), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for first in range(0, source.size, PART):
            rows = source.render(first, min(first + PART, source.size))
            writer.write_table(as_table(rows))
            lengths.append(rows.lengths)
            targets += int((rows.labels != IGNORE).sum())
    scratch.replace(path)
    return np.concatenate(lengths), targets
