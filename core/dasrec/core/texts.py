"""Texts that stand for items and users: what the encoders of `embed` read (das-method 1.1, 4.1)."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from dasrec.core.corpus import Corpus

ITEM_COLUMNS = ("title", "brand", "category", "categories", "description")
"""Item columns used by default, in this order, where the table has them."""

USER_COLUMNS = (
    "gender",
    "age",
    "age_group",
    "occupation",
    "occupation_name",
    "region",
    "preference",
    "description",
)
"""Profile columns used by default, in this order, where the table has them."""


def item_texts(
    corpus: Corpus,
    columns: Sequence[str] | None = None,
    *,
    labels: bool = True,
    section: str = "embed.items.columns",
) -> pl.Series:
    """One text per item: its columns one after the other, those without a value left out.

    Args:
        corpus: the catalogue; row i of the result is item_idx i.
        columns: columns of `items.parquet`; None takes those of `ITEM_COLUMNS` that exist.
        labels: whether each value is preceded by its column's name ("Brand: Acme").
        section: the config key that names the columns, for messages.

    Returns:
        (I,) strings; "" for an item without any value.

    Raises:
        ValueError: a column that the table does not have, or no column at all.
    """
    chosen = _columns(corpus.items, columns, ITEM_COLUMNS, "items", section)
    if not chosen:
        raise ValueError(
            f"{section}: none of {', '.join(ITEM_COLUMNS)} in items.parquet "
            f"(it has {', '.join(corpus.items.columns)}); name the text columns"
        )
    return _join(corpus.items, chosen, labels)


def user_texts(
    corpus: Corpus,
    columns: Sequence[str] | None = None,
    *,
    max_history: int = 20,
    labels: bool = True,
    section: str = "embed.users.columns",
) -> pl.Series:
    """One text per user: the profile, then the user's last training items, most recent first.

    Valid and test interactions are not read: the text of a user is the same whatever they are.

    Args:
        corpus: row u of the result is user_idx u.
        columns: columns of `users.parquet`; None takes those of `USER_COLUMNS` that exist.
        max_history: training items named, by `title` where the items have one, else by the
            first of their text columns. 0 leaves the history out.
        labels: whether each part is preceded by its name.
        section: the config key that names the columns, for messages.

    Returns:
        (U,) strings; "" for a user without profile and training items.

    Raises:
        ValueError: a column that the table does not have.
    """
    chosen = _columns(corpus.users, columns, USER_COLUMNS, "users", section)
    profile = _join(corpus.users, chosen, labels).to_frame("profile")
    history = _history_texts(corpus, max_history)
    label = "Recently chosen: {}" if labels else "{}"
    table = profile.with_columns(
        history=pl.when(history != "").then(pl.format(label, pl.lit(history))),
        profile=pl.when(pl.col("profile") != "").then("profile"),
    )
    joined = pl.concat_str("profile", "history", separator=". ", ignore_nulls=True)
    return table.select(text=joined.fill_null(""))["text"]


def _history_texts(corpus: Corpus, max_history: int) -> pl.Series:
    """(U,) titles of the last training items, most recent first, joined by "; "."""
    names = [name for name in ITEM_COLUMNS if name in corpus.items.columns][:1]
    values, starts = corpus.train_sequences
    lengths = np.diff(starts)
    users = np.repeat(np.arange(corpus.num_users), lengths)
    age = starts[1:][users] - 1 - np.arange(len(values))  # 0 = the most recent
    kept = np.flatnonzero(age < max_history)[::-1]
    if not names or not len(kept):
        return pl.Series("history", [""], dtype=pl.String).new_from_index(0, corpus.num_users)
    titles = _join(corpus.items, names, labels=False)
    table = pl.DataFrame({"user": users[kept], "title": titles.gather(values[kept])})
    joined = (
        table.filter(pl.col("title") != "")
        .group_by("user", maintain_order=True)
        .agg(history=pl.col("title").str.join("; "))
    )
    every = pl.DataFrame({"user": np.arange(corpus.num_users)})
    return every.join(joined, on="user", how="left", maintain_order="left")["history"].fill_null("")


def _columns(
    table: pl.DataFrame,
    columns: Sequence[str] | None,
    defaults: Sequence[str],
    side: str,
    section: str,
) -> list[str]:
    if columns is None:
        return [name for name in defaults if name in table.columns]
    for name in columns:
        if name not in table.columns:
            raise ValueError(
                f"{section}: no column '{name}' in {side}.parquet; "
                f"it has {', '.join(table.columns)}"
            )
    return list(columns)


def _join(table: pl.DataFrame, columns: Sequence[str], labels: bool) -> pl.Series:
    if not columns:
        return pl.Series("text", [""], dtype=pl.String).new_from_index(0, len(table))
    parts = []
    for name in columns:
        value = (
            _as_string(pl.col(name), table.schema[name])
            .str.replace_all(r"\s+", " ")
            .str.strip_chars(" .")
        )
        label = f"{name.replace('_', ' ').capitalize()}: {{}}" if labels else "{}"
        parts.append(pl.when(value != "").then(pl.format(label, value)))
    joined = pl.concat_str(parts, separator=". ", ignore_nulls=True).fill_null("")
    return table.select(text=joined)["text"]


def _as_string(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    if isinstance(dtype, pl.List):
        inner = _as_string(pl.element(), dtype.inner)  # type: ignore[arg-type]
        separator = " > " if isinstance(dtype.inner, pl.List) else ", "
        return value.list.eval(inner).list.join(separator, ignore_nulls=True)
    return value.cast(pl.String)
