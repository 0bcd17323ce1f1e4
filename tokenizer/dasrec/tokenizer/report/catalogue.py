"""What items are called and which category they belong to, for purity and for the page."""

import polars as pl

from dasrec.core import Corpus

SEPARATOR = " > "
DEPTH = 2
"""Levels of `categories` that make an item's category: deeper paths are nearly unique."""


def item_titles(corpus: Corpus) -> pl.Series:
    """(I,) `title`, and the item_id where there is none."""
    names = corpus.items["item_id"]
    if "title" not in corpus.items.columns:
        return names
    title = corpus.items["title"].cast(pl.String).str.strip_chars()
    return title.set(title == "", None).zip_with(title.fill_null("") != "", names)


def item_categories(corpus: Corpus) -> pl.Series | None:
    """(I,) category as text, null where unknown; None if the items have no such column.

    `category` is taken as it is (a list joined by " > "), of `categories` the first two levels.
    """
    for name, depth in (("category", None), ("categories", DEPTH)):
        if name in corpus.items.columns:
            column = corpus.items[name]
            if not column.dtype.is_nested():
                column = column.cast(pl.String).str.split(SEPARATOR)
            path = column if depth is None else column.list.head(depth)
            text = path.cast(pl.List(pl.String)).list.drop_nulls().list.join(SEPARATOR)
            return text.set(text == "", None)
    return None
