"""Beam search whose every shape is known beforehand: for CUDA graphs, and for torch.compile.

A GPU runs a small batch faster than Python can ask for it. Here nothing of a search depends on
what the tensors hold, so that all its work is recorded once per prompt length and then replayed.

Shape letters: B users, T prompt tokens (padded), I items, E excluded items (padded).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from dasrec.generative.decoding.beams import takes_tree_mask
from dasrec.generative.decoding.cuda_graph import Replay
from dasrec.generative.decoding.filters import Predicates, Ragged
from dasrec.generative.decoding.fixed_index import FixedIndex
from dasrec.generative.decoding.fixed_step import FixedStep, root
from dasrec.generative.decoding.head import LevelHead, Normalize
from dasrec.generative.decoding.index import SidIndex
from dasrec.generative.decoding.prompts import check_length, check_prompts
from dasrec.generative.decoding.search import SearchResult
from dasrec.generative.decoding.slot_cache import slot_cache
from dasrec.generative.decoding.tree_beams import TreeBeams


class FixedShapeSearch:
    """`constrained_beam_search` for one model, catalogue and list length, again and again.

    It gives the same items and scores, to rounding. Prompts are padded to the next of a few
    lengths and batches to `batch_size`; memory for keys and values is taken once. What is allowed
    is fixed with the catalogue: make this anew for another snapshot or predicate.

    Weights may change in place, since nothing is copied from the model. Adapters may be switched
    or merged only where no `cuda_graph` was recorded.
    """

    def __init__(
        self,
        model: nn.Module,
        trie: SidIndex,
        *,
        batch_size: int,
        prompt_lengths: Sequence[int],
        num_beams: int,
        num_items: int,
        normalize: Normalize = "level",
        allowed: Predicates | None = None,
        max_excluded: int = 0,
        compiled: bool = False,
        cuda_graph: bool = False,
    ) -> None:
        """Prepare the search; recording and compiling wait for the first batch of each length.

        Args:
            model: As in `constrained_beam_search`, of a kind that takes the mask of a tree.
            trie: The catalogue.
            batch_size: B of every pass.
            prompt_lengths: T that prompts are padded to, the smallest that fits.
            num_beams: Beams kept per level; raised to `num_items` where lower.
            num_items: k.
            normalize: What a code's probability is over, see `Normalize`.
            allowed: What to choose from: a predicate or a bool mask (I,).
            max_excluded: Most items that a user may exclude.
            compiled: Compile the model's passes over the beams with torch.compile.
            cuda_graph: Record each search as a CUDA graph.

        Raises:
            ValueError: Options that do not fit each other or the model.
        """
        for name, value in (
            ("batch_size", batch_size), ("num_beams", num_beams), ("num_items", num_items),
            ("prompt_lengths", min(prompt_lengths, default=0)),
        ):  # fmt: skip
            if value < 1:
                raise ValueError(f"{name}: at least 1 needed, got {value}")
        self._device = next(model.parameters()).device
        if cuda_graph and self._device.type != "cuda":
            raise ValueError(f"cuda_graph: needs a model on a CUDA device, not {self._device}")
        self._head = LevelHead(model, trie.level_token_ids)
        if not takes_tree_mask(self._head):
            raise ValueError(
                "model: its attention cannot take the mask of a tree of beams; search with"
                " constrained_beam_search, or load it with attn_implementation='sdpa'"
            )
        self._step_head = self._head.compiled() if compiled else self._head
        self._index = FixedIndex(trie.to(self._device), allowed)
        self._max_excluded = max_excluded
        self._lengths = sorted(prompt_lengths)
        check_length(self._head, self._lengths[-1] + trie.num_levels - 1)
        self._batch = batch_size
        self._step = FixedStep(self._head, self._index, num_beams, num_items, normalize)
        self._cache = slot_cache(self._lengths[-1] + sum(self._step.widths[:-1]))
        self._cuda_graph = cuda_graph
        self._runs: dict[int, Callable[..., tuple[Tensor, ...]]] = {}

    @torch.no_grad()
    def __call__(
        self, input_ids: Tensor, attention_mask: Tensor, excluded: Ragged | Tensor | None = None
    ) -> SearchResult:
        """Search for any number of users.

        Args:
            input_ids: (B, T) prompts, padded on the left.
            attention_mask: (B, T) 1 at real tokens.
            excluded: Per user the item indices never to return, as B sequences or (B, E) padded
                with -1.

        Raises:
            ValueError: Prompts that are longer than the longest of `prompt_lengths`, or more
                excluded items than `max_excluded`.
        """
        check_prompts(input_ids, attention_mask)
        item_BE = rectangle(excluded, len(input_ids), self._max_excluded, self._index.num_items)
        inputs = (values.to(self._device) for values in (input_ids, attention_mask, item_BE))
        chunks = zip(*(values.split(self._batch) for values in inputs), strict=True)
        found = [self._batch_of(*chunk) for chunk in chunks]
        return SearchResult(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    def _batch_of(
        self, input_ids: Tensor, attention_mask: Tensor, item_BE: Tensor
    ) -> tuple[Tensor, ...]:
        count, given = input_ids.shape
        fitting = [length for length in self._lengths if length >= given]
        if not fitting:
            raise ValueError(
                f"input_ids: {given} tokens, but prompt_lengths end at {self._lengths[-1]}; shorten"
                " the histories or name a longer one"
            )
        # Missing users are copies of the last. Padding goes to the right, a copy of the last token:
        # what comes before cannot see it, so the pass over the prompts needs no mask and takes the
        # fast causal attention.
        row_B = torch.arange(self._batch, device=self._device).clamp_(max=count - 1)
        length_B = attention_mask.sum(1)[row_B]
        from_BT = torch.arange(fitting[0], device=self._device) + (given - length_B.unsqueeze(1))
        ids_BT = input_ids[row_B].gather(1, from_BT.clamp_(max=given - 1))
        inputs = (ids_BT, length_B, self._index.places(item_BE)[row_B])
        run = self._runs.get(fitting[0])
        if run is None:
            run = Replay(self._run, *inputs) if self._cuda_graph else self._run
            self._runs[fitting[0]] = run
        return tuple(values[:count].clone() for values in run(*inputs))

    def _run(self, ids_BT: Tensor, length_B: Tensor, excluded_BE: Tensor) -> tuple[Tensor, ...]:
        """A whole search, without reading anything back from the device."""
        place_T = torch.arange(ids_BT.shape[1], device=self._device)
        self._cache.reset()
        beams = TreeBeams(
            self._head,
            ids_BT,
            place_T < length_B.unsqueeze(1),
            self._cache,
            right_padded=True,
            step_head=self._step_head,
        )
        states = beams.prefill()
        front = root(len(ids_BT), self._device)
        for level in range(len(self._step.widths)):
            if level:
                states = beams.advance(front.token, front.parent)
            front = self._step.extend(states, front, excluded_BE, level)
        return self._step.items(front, excluded_BE)


def rectangle(
    excluded: Ragged | Tensor | None, batch_size: int, width: int, num_items: int
) -> Tensor:
    """(B, E) item indices of B lists, padded with -1 to E = `width`.

    Raises:
        ValueError: Not one list per user, one that is too long, or an item outside the catalogue.
    """
    rows = [
        torch.as_tensor(row, dtype=torch.int64) for row in ([] if excluded is None else excluded)
    ]
    if excluded is not None and len(rows) != batch_size:
        raise ValueError(f"excluded: {batch_size} rows needed, got {len(rows)}")
    item_BE = torch.full((batch_size, width), -1)
    for place, row in enumerate(rows):
        listed = row[row != -1]
        if len(listed) > width:
            raise ValueError(
                f"excluded: {len(listed)} items of user {place}, but max_excluded is {width}"
            )
        item_BE[place, : len(listed)] = listed
    if item_BE.numel() and not -1 <= int(item_BE.min()) <= int(item_BE.max()) < num_items:
        raise ValueError(
            f"excluded: item index outside 0..{num_items - 1}, got"
            f" {int(item_BE.min())}..{int(item_BE.max())}"
        )
    return item_BE
