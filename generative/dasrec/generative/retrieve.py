"""Stage `retrieve`: generate the next items of every query under the trie.

Shape letters: Q queries, B prompts of a batch, T tokens, W items per list.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, field_validator
from torch import Tensor

from dasrec.core import (
    Corpus,
    Manifest,
    Ragged,
    Recommendations,
    SemanticIds,
    StageConfig,
    check_free,
    write_recommendations,
)
from dasrec.core.corpus import ExcludeSeen, Split
from dasrec.generative.data.sequences import SequenceBuilder
from dasrec.generative.data.tokens import TokenSequences
from dasrec.generative.decoding.head import LevelHead
from dasrec.generative.decoding.search import constrained_beam_search
from dasrec.generative.decoding.trie import SidTrie
from dasrec.generative.model.load import Generator, load_generator
from dasrec.generative.model.vocabulary import SidVocabulary

log = logging.getLogger(__name__)


class RetrieveConfig(StageConfig):
    """How lists are generated."""

    num_beams: int = Field(50, ge=1)
    """Beams per level."""

    num_items: int = Field(50, ge=1)
    """Items per list."""

    batch_tokens: int = Field(16_384, ge=1)
    """Prompt and beam tokens per forward pass at most."""

    use_user_sid: bool = True
    """Start the prompt with the user's SID where the generator's prompt format has it."""

    exclude_seen: ExcludeSeen = "never"
    """Keep items of the user's history out of the list, inside the search."""

    splits: tuple[Split, ...] = ("valid", "test")
    """Splits whose queries get lists."""

    @field_validator("splits")
    @classmethod
    def _predicted(cls, splits: tuple[Split, ...]) -> tuple[Split, ...]:
        if not splits or len(set(splits)) < len(splits) or "train" in splits:
            raise ValueError(f"expected valid, test or both, got {list(splits)}")
        return splits


def build_trie(corpus: Corpus, sids: SemanticIds, vocabulary: SidVocabulary) -> SidTrie:
    """The catalogue's trie; items that share a SID are ordered by training popularity."""
    return SidTrie.from_sids(
        np.asarray(sids.items.codes),
        sids.items.level_sizes,
        [np.array(ids) for ids in vocabulary.item_levels],
        popularity=corpus.train_item_count,
        fingerprint=sids.fingerprint,
    )


def generate_lists(
    model: Any,
    trie: SidTrie,
    prompts: TokenSequences,
    config: RetrieveConfig,
    *,
    excluded: Ragged | None = None,
    progress: str | None = None,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Generate one list per prompt.

    Args:
        model: a causal LM in eval mode.
        trie: the catalogue.
        prompts: token sequences, in any order; batches are formed by length.
        config: beams, list length, batch size.
        excluded: per prompt the items that must not be in its list.
        progress: name for progress lines; None logs nothing.

    Returns:
        (Q, W) item indices and scores (log-probabilities), in the order of `prompts`.
    """
    head = LevelHead(model, trie.level_token_ids)
    device = model.get_input_embeddings().weight.device
    trie = trie.to(device)  # once, not with every batch
    lengths = prompts.lengths
    order = np.argsort(-lengths, kind="stable")  # the largest batch first: memory faults show early
    items = np.full((len(lengths), config.num_items), -1, np.int32)
    scores = np.full((len(lengths), config.num_items), -np.inf, np.float32)
    done, shown = 0, 0
    while done < len(order):
        width = int(lengths[order[done]])
        batch = max(1, config.batch_tokens // (width + config.num_beams))
        rows = order[done : done + batch]
        input_ids, attention_mask = padded_prompts(prompts, rows)
        result = constrained_beam_search(
            model,
            input_ids.to(device),
            attention_mask.to(device),
            trie,
            num_beams=config.num_beams,
            num_items=config.num_items,
            excluded=None if excluded is None else padded_items(excluded, rows).to(device),
            certify=False,
            head=head,
        )
        items[rows] = result.items.cpu().numpy()
        scores[rows] = result.scores.cpu().numpy()
        done += len(rows)
        if progress and (done - shown >= 5_000 or done == len(order)):
            shown = done
            log.info("%s: %d/%d queries", progress, done, len(order))
    return items, scores


def padded_prompts(prompts: TokenSequences, rows: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """(B, T) token ids and attention mask of some prompts, padded on the left."""
    lengths = prompts.lengths[rows]
    back = np.arange(int(lengths.max()) - 1, -1, -1)  # distance from the prompt's end
    real = back < lengths[:, None]
    ids = np.zeros(real.shape, np.int64)
    ids[real] = prompts.tokens[(prompts.starts[rows + 1][:, None] - 1 - back)[real]]
    return torch.from_numpy(ids), torch.from_numpy(real.astype(np.int64))


def padded_items(items: Ragged, rows: npt.NDArray[np.int64]) -> Tensor:
    """(B, E) the items of some rows, padded with -1."""
    lengths = items.starts[rows + 1] - items.starts[rows]
    place = np.arange(max(1, int(lengths.max(initial=0))))
    real = place < lengths[:, None]
    padded = np.full(real.shape, -1, np.int64)
    padded[real] = items.values[(items.starts[rows][:, None] + place)[real]]
    return torch.from_numpy(padded)


def seen_items(
    config: RetrieveConfig, corpus: Corpus, queries: npt.NDArray[np.int64]
) -> Ragged | None:
    """What to exclude per query under `config.exclude_seen`: all events before it, or nothing."""
    if not corpus.excludes_seen(config.exclude_seen):
        return None
    return corpus.histories(queries, len(corpus.item_idx))


def query_prompts(
    corpus: Corpus,
    builder: SequenceBuilder,
    queries: npt.NDArray[np.int64],
    *,
    use_user_sid: bool = True,
) -> TokenSequences:
    """The prompt of each query: the user, and what the user had before it.

    Args:
        corpus: whose queries they are.
        builder: renders histories in the model's prompt format.
        queries: rows of the corpus that are asked for. Of the row itself only its time is read,
            and that only by a prompt format with times.
        use_user_sid: False leaves the users' SIDs out.
    """
    history = corpus.histories(queries, builder.prompt.max_history)
    times = now = None
    if builder.prompt.time:
        lengths = np.diff(history.starts)
        rows = np.arange(len(history.values)) + np.repeat(queries - history.starts[1:], lengths)
        times, now = corpus.timestamp[rows], corpus.timestamp[queries]
    return builder.prompts(
        history, corpus.user_idx[queries], times=times, now=now, user_sid=use_user_sid
    )


def retrieve(
    config: RetrieveConfig,
    generator_path: Path,
    corpus: Corpus,
    sids: SemanticIds,
    out: Path,
    *,
    seed: int = 0,
    replace: bool = False,
) -> Manifest:
    """Generate lists for the queries of `config.splits`.

    Args:
        config: beams, list length, prompts, splits.
        generator_path: a generator, or a base_model that was not fine-tuned.
        corpus: whose queries are answered.
        sids: what the generator was trained on.
        out: directory of the new artifact.
        seed: kept in the manifest; nothing here is random.
        replace: overwrite `out`.

    Returns:
        The manifest of the Recommendations artifact written to `out`.
    """
    check_free(out, replace)
    generator: Generator = load_generator(generator_path, sids)
    trie = build_trie(corpus, sids, generator.vocabulary)
    builder = generator.sequence_builder(corpus, sids)
    queries = np.sort(np.concatenate([corpus.queries(split) for split in config.splits]))
    prompts = query_prompts(corpus, builder, queries, use_user_sid=config.use_user_sid)
    excluded = seen_items(config, corpus, queries)
    items, scores = generate_lists(
        generator.model, trie, prompts, config, excluded=excluded, progress=out.name
    )
    return write_recommendations(
        out,
        config.as_json(),
        {
            "corpus": corpus.manifest,
            "semantic_ids": sids.manifest,
            "generator": generator.manifest,
        },
        Recommendations(queries, items, scores),
        seed=seed,
        metrics={
            "short_lists": int((items < 0).any(1).sum()),
            "seen_excluded": excluded is not None,
        },
        replace=replace,
    )
