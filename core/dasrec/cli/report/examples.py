"""Users of a report: what they had, what came next, what was recommended, and how SIDs relate them.

Shape letters: H items of a history, L learned levels, C recommended items.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from dasrec.cli.generator_steps import base_method, split_name
from dasrec.cli.report.document import Example, ExampleList, Shown
from dasrec.cli.report.systems import System
from dasrec.core.artifacts import MANIFEST
from dasrec.core.corpus import Corpus
from dasrec.core.recommendations import Recommendations, load_recommendations
from dasrec.core.seeding import generator
from dasrec.core.semantic_ids import load_sids
from dasrec.tokenizer.report.catalogue import item_titles
from dasrec.tokenizer.report.counts import Codes, learned_codes

PER_KIND = 2
HISTORY = 8
"""Most recent events shown."""
TOP = 3


@dataclass(frozen=True)
class Source:
    """A system and all that is shown of its lists."""

    system: System
    lists: Recommendations
    titles: pl.Series
    codes: Codes | None
    """(I, L) learned codes; None for a system without SIDs."""

    @property
    def corpus(self) -> Corpus:
        """Of the system's run."""
        return self.system.named.run.corpus

    @classmethod
    def of(cls, system: System) -> "Source":
        """Open the lists and the SIDs of a system."""
        root, corpus = system.named.path, system.named.run.corpus
        lists = load_recommendations(root / "recommendations" / system.method, corpus)
        sids = root / "sids" / split_name(base_method(system.method))[0]
        has_sids = (sids / MANIFEST).exists()
        codes = learned_codes(load_sids(sids, corpus.manifest).items) if has_sids else None
        return cls(system, lists, item_titles(corpus), codes)


def examples_of(systems: Sequence[System], k: int, seed: int = 0) -> list[Example]:
    """Queries drawn at random among those where the first system hits, nearly misses and misses.

    Args:
        systems: of one group, the one that decides first; those without lists are left out.
        k: items of a list that are shown.
        seed: of the draw.
    """
    kept = [s for s in systems if (_lists_of(s) / MANIFEST).exists()]
    if not kept:
        return []
    sources = [Source.of(system) for system in kept]
    rank = kept[0].table["rank"].fill_null(0).to_numpy()
    first = min(TOP, k)
    kinds = {
        f"found among the first {first}": (rank > 0) & (rank <= first),
        f"found further down, up to {k}": (rank > first) & (rank <= k),
        f"not among the first {k}": (rank == 0) | (rank > k),
    }
    rng = generator(seed, "report", "examples")
    examples = []
    for kind, of_kind in kinds.items():
        rows = np.flatnonzero(of_kind)
        drawn = rng.choice(rows, min(PER_KIND, len(rows)), replace=False)
        examples += [_example(sources, int(row), kind, k) for row in np.sort(drawn)]
    return examples


def _lists_of(system: System) -> Path:
    return system.named.path / "recommendations" / system.method


def _example(sources: Sequence[Source], row: int, kind: str, k: int) -> Example:
    lead = next((source for source in sources if source.codes is not None), sources[0])
    past = _history(lead, row)
    return Example(
        run=sources[0].system.named.name,
        user_id=str(sources[0].system.table["user_id"][row]),
        kind=kind,
        history=tuple(_shown(lead, past[-HISTORY:], past[:0])),
        earlier=max(0, len(past) - HISTORY),
        lists=tuple(_list(source, row, k) for source in sources),
    )


def _history(source: Source, row: int) -> npt.NDArray[np.int64]:
    """(H,) items before the query, oldest first."""
    corpus, query = source.corpus, int(source.system.table["query"][row])
    begin = int(corpus.user_start[corpus.user_idx[query]])
    return corpus.item_idx[begin:query].astype(np.int64)


def _list(source: Source, row: int, k: int) -> ExampleList:
    query = int(source.system.table["query"][row])
    place = int(np.searchsorted(source.lists.queries, query))
    items = source.lists.item_idx[place, :k].astype(np.int64)
    target = source.corpus.item_idx[query : query + 1].astype(np.int64)
    past = _history(source, row)
    return ExampleList(
        system=source.system.label,
        rank=source.system.table["rank"][row],
        target=_shown(source, target, past)[0],
        items=tuple(_shown(source, items[items >= 0], past)),
    )


def _shown(
    source: Source, items: npt.NDArray[np.int64], past: npt.NDArray[np.int64]
) -> list[Shown]:
    """The items, and which of the history has the longest prefix of their SIDs."""
    ids = source.corpus.items["item_id"]
    shown = []
    for item in items.tolist():
        sid, shared, like = (), 0, ""
        if source.codes is not None:
            sid = tuple(source.codes[item].tolist())
            if len(past):
                levels = shared_levels(source.codes[past], source.codes[item])
                shared = int(levels.max())
                recent = len(past) - 1 - int(levels[::-1].argmax())
                like = source.titles[int(past[recent])] if shared else ""
        shown.append(Shown(str(ids[item]), source.titles[item], sid, shared, like))
    return shown


def shared_levels(history: Codes, sid: Codes) -> npt.NDArray[np.int64]:
    """(H,) leading codes that a SID (L,) shares with each of the history's (H, L).

    >>> shared_levels(np.array([[1, 2, 3], [1, 9, 3], [4, 2, 3]]), np.array([1, 2, 5]))
    array([2, 1, 0])
    """
    return np.asarray(np.cumprod(history == sid, axis=1).sum(axis=1), np.int64)
