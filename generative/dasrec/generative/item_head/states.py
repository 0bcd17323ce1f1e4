"""What the generator knows before a next item: its last hidden state there.

Shape letters: P next items, Q queries, H hidden width, B rows, T tokens.
"""

import logging
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dasrec.core import Corpus, SemanticIds
from dasrec.core import generator as random_generator
from dasrec.core.corpus import Int64s
from dasrec.generative.data.sequences import hide_times, training_windows
from dasrec.generative.data.tokens import TokenSequences
from dasrec.generative.model.load import Generator
from dasrec.generative.model.packed_attention import last_hidden
from dasrec.generative.retrieve import query_prompts

log = logging.getLogger(__name__)

BATCH_TOKENS = 16_384
"""Tokens per forward pass at most, padding included."""


class NextItems(NamedTuple):
    """Training targets with the states before them."""

    states_PH: Tensor
    """float32, on the CPU."""
    items_P: Int64s


def training_states(
    generator: Generator, corpus: Corpus, sids: SemanticIds, max_states: int, seed: int
) -> NextItems:
    """States before the items of the training sequences, as the generator read them in training.

    Args:
        generator: frozen.
        corpus: only its training interactions are read.
        sids: of its items.
        max_states: of more items so many are drawn, whole sequences at a time.
        seed: of the draw, and of the times that are hidden.
    """
    builder = generator.sequence_builder(corpus, sids)
    windows = hide_times(training_windows(corpus, builder.prompt.max_history), seed)
    rows = builder.render(windows.items, windows.users, times=windows.times)
    counts = np.diff(windows.items.starts)
    order = random_generator(seed, "item_head", "windows").permutation(len(counts))
    fits = np.cumsum(counts[order]) <= max_states
    fits[0] = True
    kept = np.sort(order[fits])
    of_items = np.repeat(np.isin(np.arange(len(counts)), kept), counts)
    taken = rows.take(kept)
    before = before_items(taken, generator.vocabulary.item_levels[0])
    states_PH = states_at(generator.model, taken, before, name="item head: training sequences")
    return NextItems(states_PH, windows.items.values[of_items].astype(np.int64))


def query_states(
    generator: Generator,
    corpus: Corpus,
    sids: SemanticIds,
    queries: Int64s,
    *,
    use_user_sid: bool = True,
) -> Tensor:
    """(Q, H) states at the end of the queries' prompts; see `query_prompts`."""
    builder = generator.sequence_builder(corpus, sids)
    prompts = query_prompts(corpus, builder, queries, use_user_sid=use_user_sid)
    last = np.zeros(len(prompts.tokens), np.bool_)
    last[prompts.starts[1:] - 1] = True
    return states_at(generator.model, prompts, last, name="item head: queries")


def before_items(
    rows: TokenSequences, first_level: npt.NDArray[np.integer[Any]] | tuple[int, ...]
) -> npt.NDArray[np.bool_]:
    """(total,) marks the token before each item that is a target.

    Args:
        rows: rendered sequences; every one starts with a token that belongs to no item.
        first_level: token ids of the items' first codes.
    """
    starts_item = rows.targets & np.isin(rows.tokens, np.asarray(first_level))
    return np.append(starts_item[1:], False)


def states_at(
    model: Any, rows: TokenSequences, marked: npt.NDArray[np.bool_], *, name: str
) -> Tensor:
    """(marked, H) hidden states of the marked tokens in float32, in the order of the tokens.

    Args:
        model: a causal LM in eval mode.
        rows: token sequences of any length.
        marked: (total,) whose states are wanted.
        name: for progress lines.
    """
    device = model.get_input_embeddings().weight.device
    number = np.cumsum(marked) - 1  # place of each marked token in the result
    lengths = rows.lengths
    order = np.argsort(-lengths, kind="stable")  # the largest batch first: memory faults show early
    found: Tensor | None = None
    done, shown = 0, 0
    while done < len(order):
        longest = int(lengths[order[done]])
        chosen = order[done : done + max(1, BATCH_TOKENS // longest)]
        place_BT = rows.starts[chosen][:, None] + np.arange(longest)
        real_BT = np.arange(longest) < lengths[chosen][:, None]
        place_BT = np.where(real_BT, place_BT, 0)
        inputs = {
            "input_ids": torch.from_numpy(np.where(real_BT, rows.tokens[place_BT], 0)).to(device),
            "attention_mask": torch.from_numpy(real_BT.astype(np.int64)).to(device),
        }
        wanted_BT = real_BT & marked[place_BT]
        with torch.inference_mode():
            hidden_BTH = last_hidden(model, inputs)
            states = hidden_BTH[torch.from_numpy(wanted_BT).to(device)].float().cpu()
        if found is None:
            found = torch.empty(int(marked.sum()), states.shape[1])
        found[torch.from_numpy(number[place_BT[wanted_BT]])] = states
        done += len(chosen)
        if done - shown >= 20_000 or done == len(order):
            shown = done
            log.info("%s: %d/%d", name, done, len(order))
    assert found is not None
    return found
