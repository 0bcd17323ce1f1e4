"""Which features the CTR model gets, and their vocabularies.

Semantic-ID features follow DAS (arXiv 2508.10584), Meta's prefix n-grams (arXiv 2504.02137) and
QARM's history matching (arXiv 2411.11739). Each one is a switch, so that an ablation is one line
of YAML; without a SemanticIds artifact all of them are off (the ID-only arm).
"""

import numpy as np
import polars as pl
from pydantic import Field

from dasrec.core.config import StageConfig
from dasrec.core.corpus import Corpus
from dasrec.core.semantic_ids import SemanticIds, SidTable
from dasrec.ranking.rows import Rows

MIN_ROWS_PER_CATEGORY = 4  # a column with fewer is an identifier, not a category


class FeatureConfig(StageConfig):
    """Inputs of the CTR model."""

    max_history: int = Field(default=50, ge=1)
    """The last so many items before the impression are attended to."""

    ids: bool = True
    """Embeddings of user and item ids (target and history share the item table)."""

    min_count: int = Field(default=2, ge=1)
    """Ids with fewer training rows share one "unknown" embedding, which unseen ids get too."""

    user_columns: tuple[str, ...] | None = None
    """Columns of the users table used as categories; none given = those of low cardinality."""

    item_columns: tuple[str, ...] | None = None
    """Columns of the items table used as categories; none given = those of low cardinality."""

    max_categories: int = Field(default=500, ge=2)
    """A column with more distinct values is not picked by itself."""

    user_sids: bool = True
    """Use the user's semantic ID (levels, prefixes, cross, similarity), where there is one."""

    sid_levels: bool = True
    """One embedding per level and code."""

    sid_prefixes: bool = True
    """Prefixes c1, c1c2, c1c2c3, ... hashed into one table and summed (prefix n-grams)."""

    sid_cross: int = Field(default=1, ge=0)
    """User prefix x item prefix of so many lengths from 1, hashed into one table; 0 = off. From 2
    on the pairs come near (user, item) itself: that needs logs of industrial size, on small ones
    the model learns them by heart."""

    sid_match: bool = True
    """How many history items share c1, c1c2, ... with the target; also steers the attention."""

    sid_history: bool = True
    """Semantic IDs of history items (beside their ids) in the attention."""

    sid_similarity: bool = True
    """Cosine of the item's quantized vector with the user's and with those of the history."""

    hash_size: int = Field(default=65_536, ge=2)
    """Rows of each hashed table; row 0 is reserved."""


class FeatureSchema(StageConfig):
    """Vocabularies fitted on the training rows; kept beside the weights."""

    user_vocabulary: tuple[int, ...]
    """user_idx with an embedding of their own; position v has row v + 1, row 0 is unknown."""

    item_vocabulary: tuple[int, ...]
    """item_idx with an embedding of their own, likewise."""

    user_attributes: dict[str, tuple[str, ...]]
    """Column -> its categories (as text); row 0 is missing or unknown."""

    item_attributes: dict[str, tuple[str, ...]]
    """Column -> its categories, likewise."""

    item_levels: tuple[int, ...]
    """Codebook sizes of the item SID's learned levels; empty = no item SIDs."""

    user_levels: tuple[int, ...]
    """Codebook sizes of the user SID's learned levels; empty = no user SIDs."""

    shared_space: bool
    """User and item vectors have one dimension, so that their cosine means something."""


def build_schema(
    config: FeatureConfig, corpus: Corpus, train: Rows, sids: SemanticIds | None
) -> FeatureSchema:
    """Fit the vocabularies on training rows.

    Raises:
        ValueError: a configured column that the table lacks, SID tables of another size than the
            corpus, or a config that leaves the model without any item feature.
    """
    users = sids.users if sids is not None and config.user_sids else None
    for side, table, size in (
        ("items", sids.items if sids else None, corpus.num_items),
        ("users", users, corpus.num_users),
    ):
        if table is not None and len(table.codes) != size:
            raise ValueError(
                f"ranking: {side} has {size} rows in the corpus but {len(table.codes)} semantic "
                "IDs; assign them again from this corpus"
            )
    schema = FeatureSchema(
        user_vocabulary=_frequent(train.user_idx, config.min_count),
        item_vocabulary=_frequent(train.item_idx, config.min_count),
        user_attributes=_categories(
            "user", corpus.users, train.user_idx, config.user_columns, config.max_categories
        ),
        item_attributes=_categories(
            "item", corpus.items, train.item_idx, config.item_columns, config.max_categories
        ),
        item_levels=learned_levels(sids.items) if sids is not None else (),
        user_levels=learned_levels(users) if users is not None else (),
        shared_space=sids is not None
        and users is not None
        and users.vectors.shape[1] == sids.items.vectors.shape[1],
    )
    sid_features = config.sid_levels or config.sid_prefixes or config.sid_match
    if not (config.ids or schema.item_attributes or (schema.item_levels and sid_features)):
        raise ValueError(
            "ranking.features: nothing describes the item, got ids: false and no semantic IDs or "
            "attributes; switch one on"
        )
    return schema


def learned_levels(table: SidTable) -> tuple[int, ...]:
    """Sizes of the levels that carry meaning; a disambiguation level (the last) is left out."""
    return table.level_sizes[: len(table.codebooks)] or table.level_sizes


def attribute_rows(
    table: pl.DataFrame, attributes: dict[str, tuple[str, ...]]
) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """(rows, A) category of every attribute; 0 = missing or not in the vocabulary."""
    columns = [
        np.zeros(len(table), np.int64)
        if not len(table)
        else table[column]
        .cast(pl.String)
        .replace_strict(values, range(1, len(values) + 1), default=0, return_dtype=pl.Int64)
        .fill_null(0)
        .to_numpy()
        for column, values in attributes.items()
    ]
    return np.stack(columns, axis=1) if columns else np.zeros((len(table), 0), np.int64)


def _frequent(index: np.ndarray[tuple[int], np.dtype[np.int32]], least: int) -> tuple[int, ...]:
    return tuple(np.flatnonzero(np.bincount(index) >= least).tolist())


def _categories(
    side: str,
    table: pl.DataFrame,
    seen: np.ndarray[tuple[int], np.dtype[np.int32]],
    wanted: tuple[str, ...] | None,
    most: int,
) -> dict[str, tuple[str, ...]]:
    missing = sorted(set(wanted or ()) - set(table.columns))
    if missing:
        raise ValueError(
            f"ranking.features.{side}_columns: no column {missing[0]!r} in the {side}s table; "
            f"it has {', '.join(table.columns)}"
        )
    known = table[np.unique(seen)]
    found: dict[str, tuple[str, ...]] = {}
    codings: set[bytes] = set()
    for column in wanted if wanted is not None else table.columns:
        values = known[column]
        if wanted is None and (column == f"{side}_id" or not _is_category(values, most)):
            continue
        text = values.cast(pl.String)
        distinct = text.drop_nulls().unique(maintain_order=True)
        # A column that renames another one (occupation and its name) would only cost time.
        coding = text.to_physical().rank("dense").fill_null(0) if len(text) else text
        key = _order_of_appearance(coding.to_numpy())
        if wanted is None and key in codings:
            continue
        codings.add(key)
        found[column] = tuple(sorted(distinct.to_list()))
    return found


def _is_category(values: pl.Series, most: int) -> bool:
    kind = values.dtype
    if not (kind.is_integer() or kind in (pl.String, pl.Boolean, pl.Categorical, pl.Enum)):
        return False
    distinct = values.drop_nulls().n_unique()
    return 2 <= distinct <= min(most, len(values) // MIN_ROWS_PER_CATEGORY)


def _order_of_appearance(coding: np.ndarray[tuple[int], np.dtype[np.int64]]) -> bytes:
    _, first, inverse = np.unique(coding, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].tobytes()
