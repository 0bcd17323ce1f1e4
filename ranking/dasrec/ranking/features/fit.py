"""Fit the feature schema on the training rows, and on nothing else.

Shape letters: M training rows, R rows of a table.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from dasrec.core.corpus import Corpus, Int64s
from dasrec.core.moments import num_moments
from dasrec.core.semantic_ids import SemanticIds, SidTable
from dasrec.ranking.features import columns
from dasrec.ranking.features.config import FeatureConfig
from dasrec.ranking.features.context import with_time
from dasrec.ranking.features.dense import open_vectors
from dasrec.ranking.features.fields import (
    HOUR,
    WEEKDAY,
    CategoricalField,
    DenseField,
    Field,
    NumericField,
    SequenceField,
    Side,
    column_of,
)
from dasrec.ranking.features.propose import propose
from dasrec.ranking.features.schema import FeatureSchema, FittedField, FittedSids
from dasrec.ranking.rows import Rows


class Seen(NamedTuple):
    """A table, and how many training rows each of its rows is in."""

    frame: pl.DataFrame
    weight: Int64s
    """(R,)"""


def build_schema(
    config: FeatureConfig, corpus: Corpus, train: Rows, sids: SemanticIds | None
) -> FeatureSchema:
    """Fit vocabularies, quantiles and means on training rows.

    Raises:
        ValueError: a configured column that the table lacks or that holds something else than its
            type says, NaN, SID tables of another size than the corpus, or a config that leaves
            the model without any item feature.
    """
    user_count = np.bincount(train.user_idx, minlength=corpus.num_users)
    item_count = np.bincount(train.item_idx, minlength=corpus.num_items)
    context = with_time(train.context) if train.context is not None else pl.DataFrame()
    seen: dict[Side, Seen] = {
        "user": Seen(corpus.users, user_count),
        "item": Seen(corpus.items, item_count),
        "context": Seen(context, np.ones(len(context), np.int64)),
    }
    items = np.flatnonzero(item_count >= config.min_count)
    schema = FeatureSchema(
        user_vocabulary=tuple(np.flatnonzero(user_count >= config.min_count).tolist()),
        item_vocabulary=tuple(items.tolist()),
        item_counts=tuple(item_count[items].tolist()),
        fields=tuple(_fit(field, seen, corpus) for field in _fields(config, seen)),
        sids=_fit_sids(config, corpus, sids),
    )
    sid_features = config.sid_levels or config.sid_prefixes or config.sid_match
    described = any(field.spec.side == "item" for field in schema.fields)
    if not (config.ids or described or (schema.item_levels and sid_features)):
        raise ValueError(
            "ranking.features: nothing describes the item, got ids: false and no semantic IDs or "
            "attributes; switch one on"
        )
    return schema


def learned_levels(table: SidTable) -> tuple[int, ...]:
    """Sizes of the levels that carry meaning; a disambiguation level (the last) is left out."""
    return table.level_sizes[: len(table.codebooks)] or table.level_sizes


def _fields(config: FeatureConfig, seen: dict[Side, Seen]) -> list[Field]:
    chosen = list(config.fields)
    read = {(f.side, column_of(f)) for f in config.fields if not isinstance(f, DenseField)}
    for side, (frame, weight) in seen.items() if config.propose else ():
        free = frame.drop(name for name in frame.columns if (side, name) in read)
        chosen += propose(side, free, weight, config.max_categories)
    if config.time_of_day:
        chosen += [
            CategoricalField(name=name, side="context", min_count=1) for name in (HOUR, WEEKDAY)
        ]
    return chosen


def _fit(field: Field, seen: dict[Side, Seen], corpus: Corpus) -> FittedField:
    where = f"ranking.features.fields.{field.name}"
    if isinstance(field, DenseField):
        vectors, digest = open_vectors(field, corpus)
        return FittedField(spec=field, kind="vector", dim=vectors.shape[1], digest=digest)
    frame, weight = seen[field.side]
    values = columns.column(frame, column_of(field), f"{where} ({field.side}s)")
    kind = columns.kind_of(values)
    if isinstance(field, NumericField):
        numbers = columns.as_numbers(values, where)
        assert kind is not None
        return _fit_number(field, kind, np.repeat(numbers.to_numpy(), weight))
    if isinstance(field, SequenceField):
        lists = columns.as_lists(values, field.separator, where)
        length = lists.list.len().fill_null(0)
        text = lists.filter(length > 0).explode()
        weight = np.repeat(weight, length.to_numpy())
    else:
        text = columns.as_categories(values, where)
    assert kind is not None
    vocabulary = () if field.hash_size else _frequent(text, weight, field.min_count)
    return FittedField(spec=field, kind=kind, values=vocabulary)


def _frequent(text: pl.Series, weight: Int64s, least: int) -> tuple[str, ...]:
    """Values of at least `least` training rows, sorted."""
    rows = pl.DataFrame({"value": text, "count": weight}).filter(
        pl.col("value").is_not_null() & (pl.col("count") > 0)
    )
    counts = rows.group_by("value").agg(pl.col("count").sum()).filter(pl.col("count") >= least)
    return tuple(counts["value"].sort().to_list())


def _fit_number(
    field: NumericField, kind: columns.Kind, values_M: npt.NDArray[np.float64]
) -> FittedField:
    known = values_M[~np.isnan(values_M)]  # polars turns null into NaN; NaN itself was refused
    if field.encoding == "standardise":
        mean = float(known.mean()) if len(known) else 0.0
        std = float(known.std()) if len(known) else 0.0
        return FittedField(spec=field, kind=kind, mean=mean, std=std or 1.0)
    at = np.arange(1, field.num_buckets) / field.num_buckets
    edges = np.unique(np.quantile(known, at)) if len(known) else np.zeros(0)
    return FittedField(spec=field, kind=kind, edges=tuple(edges.tolist()))


def _fit_sids(config: FeatureConfig, corpus: Corpus, sids: SemanticIds | None) -> FittedSids | None:
    items = sids.items if sids is not None and config.item_sids else None
    users = sids.users if sids is not None and config.user_sids else None
    if sids is None or (items is None and users is None):
        return None
    sides = (("items", items, corpus.num_items), ("users", users, corpus.num_users))
    for side, table, size in sides:
        if table is not None and len(table.codes) != size:
            raise ValueError(
                f"ranking: {side} has {size} rows in the corpus but {len(table.codes)} semantic "
                "IDs; assign them again from this corpus"
            )
    moments = sids.user_moments
    if moments is not None and len(moments.row) != num_moments(corpus):
        raise ValueError(
            f"ranking: the corpus has {num_moments(corpus)} moments but {len(moments.row)} user "
            "semantic IDs over time; assign them again from this corpus"
        )
    return FittedSids(
        fingerprint=sids.fingerprint,
        item_levels=learned_levels(items) if items is not None else (),
        user_levels=learned_levels(users) if users is not None else (),
        item_dim=items.vectors.shape[1] if items is not None else 0,
        user_dim=users.vectors.shape[1] if users is not None else 0,
        user_moments=users is not None and config.sid_moments and moments is not None,
    )
