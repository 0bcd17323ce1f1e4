"""The prefix tree of SIDs, cut down to its largest branches.

Shape letters: I items, L learned levels, R rows of a node.
"""

import re
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from dasrec.core import Corpus, SidTable
from dasrec.tokenizer.report.catalogue import item_categories, item_titles
from dasrec.tokenizer.report.counts import Codes, learned_codes
from dasrec.tokenizer.report.sampling import evenly

Ints = npt.NDArray[np.int64]
Branches = tuple[int, ...]

BRANCHES: Branches = (24, 6, 4)  # children shown of the root, of a first code, of a second code
EXAMPLES = 3
READ = 300  # titles read for the words of a node
READ_OF_ALL = 5_000
FEWEST = 5  # items that have words in common rather than by chance
_WORD = re.compile(r"[^\W\d_]{3,}")


class Node(NamedTuple):
    """The items that share the first codes."""

    prefix: tuple[int, ...]
    size: int
    category: str
    """Most frequent category, "" if unknown."""
    category_share: float
    words: list[str]
    """What its titles say more often than others."""
    titles: list[str]
    """The most popular items in training."""
    children: list["Node"]
    hidden: int
    """Children that are not shown."""


@dataclass(frozen=True)
class Texts:
    """What a node's items are described by."""

    titles: pl.Series
    categories: pl.Series | None
    frequency: dict[str, float]
    """Share of items, by word of the title."""

    @classmethod
    def of(cls, corpus: Corpus) -> "Texts":
        """Read the catalogue; word frequencies from an even sample of it."""
        titles = item_titles(corpus)
        sample = evenly(np.arange(len(titles)), READ_OF_ALL)
        return cls(titles, item_categories(corpus), document_frequency(titles[sample]))


def build_tree(
    items: SidTable, texts: Texts, popularity_I: Ints, branches: Branches = BRANCHES
) -> tuple[list[Node], int]:
    """The nodes of the largest first codes, and how many more first codes there are.

    Args:
        items: the SIDs.
        texts: what the items are described by.
        popularity_I: (I,) training interactions.
        branches: children shown, of the root, of a first code, ...
    """
    by_popularity = np.argsort(-popularity_I, kind="stable")
    return _children((), by_popularity, learned_codes(items), texts, branches)


def document_frequency(titles: pl.Series) -> dict[str, float]:
    """Share of the titles that have each word."""
    count: Counter[str] = Counter()
    for title in titles:
        count.update(set(_WORD.findall(title.lower())))
    return {word: n / len(titles) for word, n in count.items()}


def typical_words(titles: pl.Series, frequency: dict[str, float]) -> list[str]:
    """Up to three words that `titles` have oftenest for how often others have them.

    By p log(p / q), the word's part of the divergence of the node from the catalogue.
    """
    if len(titles) < FEWEST:
        return []
    here = document_frequency(titles)
    # A word that the sample of the catalogue lacks counts as if one of its titles had it.
    gain = {
        word: share * np.log(share / max(frequency.get(word, 0.0), 1 / READ_OF_ALL))
        for word, share in here.items()
        if share >= 0.1
    }
    best = sorted((word for word in gain if gain[word] > 0), key=lambda word: (-gain[word], word))
    return best[:3]


def _children(
    prefix: tuple[int, ...], rows_R: Ints, codes_IL: Codes, texts: Texts, branches: Branches
) -> tuple[list[Node], int]:
    depth = len(prefix)
    if depth >= min(len(branches), codes_IL.shape[1]):
        return [], 0
    code_R = codes_IL[rows_R, depth]
    codes, sizes = np.unique(code_R, return_counts=True)
    shown = np.argsort(-sizes, kind="stable")[: branches[depth]]
    nodes = [
        _node((*prefix, int(code)), rows_R[code_R == code], codes_IL, texts, branches)
        for code in codes[shown]
    ]
    return nodes, len(codes) - len(shown)


def _node(
    prefix: tuple[int, ...], rows_R: Ints, codes_IL: Codes, texts: Texts, branches: Branches
) -> Node:
    category, share = "", 0.0
    if texts.categories is not None:
        known = texts.categories[rows_R].drop_nulls()
        if len(known):
            category = str(known.mode().sort()[0])
            share = float((known == category).sum()) / len(rows_R)
    children, hidden = _children(prefix, rows_R, codes_IL, texts, branches)
    return Node(
        prefix=prefix,
        size=len(rows_R),
        category=category,
        category_share=share,
        words=typical_words(texts.titles[evenly(rows_R, READ)], texts.frequency),
        titles=texts.titles[rows_R[:EXAMPLES]].to_list(),
        children=children,
        hidden=hidden,
    )
