"""Rows and semantic IDs that do not fit are refused before any work starts."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dasrec.core import SemanticIds
from dasrec.core.config import build_config
from dasrec.ranking import FeatureConfig, RankingConfig, build_schema, train_ranker
from dasrec.ranking.rows import Rows, check_rows, impression_rows
from dasrec.ranking.tables import build_tables


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("label", 2, "valid row 4: label must be 0 or 1, got 2.0"),
        ("label", np.nan, "valid row 4: label must be 0 or 1, got nan"),
        ("user_idx", 30, "valid row 4: user_idx must be 0 to 29, got 30"),
        ("user_idx", -1, "valid row 4: user_idx must be 0 to 29, got -1"),
        ("item_idx", 60, "valid row 4: item_idx must be 0 to 59, got 60"),
        ("history_end", 10_000, "history_end must be a place among the user's interactions, got"),
        ("history_end", -1, "history_end must be a place among the user's interactions, got -1"),
    ],
)
def test_bad_rows(small: Any, column: str, value: float, message: str) -> None:
    rows = impression_rows(small.corpus, "valid")
    check_rows(rows, small.corpus, "valid")
    changed: dict[str, Any] = {column: np.array(getattr(rows, column))}
    changed[column][3] = value
    with pytest.raises(ValueError, match=message):
        check_rows(rows._replace(**changed), small.corpus, "valid")


def test_training_refuses_bad_labels_first(
    tmp_path: Path, small: Any, make_corpus: Callable[..., Any]
) -> None:
    user, item, time, label, split = small.log
    graded = np.where(label > 0, 3, 0)
    corpus = make_corpus(user, item, time, graded, split, small.sizes, impressions=True)
    config = build_config(RankingConfig, {}, "test")
    with pytest.raises(ValueError, match=r"train row \d+: label must be 0 or 1, got 3.0"):
        train_ranker(config, corpus, None, tmp_path / "ranker")
    assert not (tmp_path / "ranker").exists()


def test_other_semantic_ids_are_refused(small: Any, make_sids: Callable[..., SemanticIds]) -> None:
    config = FeatureConfig()
    train = impression_rows(small.corpus, "train")
    schema = build_schema(config, small.corpus, train, small.sids)
    other = make_sids(small.corpus, small.codes[::-1].copy())
    for given in (other, None):
        with pytest.raises(ValueError, match="the model was built for semantic IDs"):
            build_tables(config, schema, small.corpus, given)
    # a later version is welcome if its learned levels are the same
    later = replace(other, lineage=(small.sids.fingerprint,))
    build_tables(config, schema, small.corpus, later)
    books = tuple(book[:, :4] for book in later.items.codebooks)
    narrow = replace(later.items, vectors=later.items.vectors[:, :4], codebooks=books)
    with pytest.raises(ValueError, match=r"vectors of width 8, the semantic IDs have .* and 4"):
        build_tables(config, schema, small.corpus, replace(later, items=narrow))
    larger = replace(later.items, level_sizes=(6, 5, 9))
    with pytest.raises(ValueError, match=r"item codebooks of \(6, 5, 4\) codes"):
        build_tables(config, schema, small.corpus, replace(later, items=larger))
    with pytest.raises(ValueError, match="user codebooks of"):
        build_tables(config, schema, small.corpus, replace(later, users=None))


def test_context_is_that_of_the_split(small: Any) -> None:
    rows: Rows = impression_rows(small.corpus, "test")
    assert rows.context is not None
    time, split = small.log[2], small.log[4]
    assert rows.context["timestamp"].to_list() == time[split == 2].tolist()
