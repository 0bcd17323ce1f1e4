from collections.abc import Callable
from datetime import date, datetime
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from dasrec.generative.decoding.attributes import ItemAttributes
from dasrec.generative.decoding.catalogue import Catalogue
from dasrec.generative.decoding.filters import ItemFilter
from dasrec.generative.decoding.trie import SidTrie

DAYS = [date(2020, 1, 1), None, date(2021, 1, 1), date(2022, 1, 1)]
TABLE = pl.DataFrame(
    {
        "kind": ["lip", "eye", None, "lip balm"],
        "price": [1.0, float("nan"), 20.0, None],
        "size": pl.Series([1, 2, None, 127], dtype=pl.Int8),
        "stock": [True, False, None, True],
        "tags": [["x", "y"], [], None, ["z", None]],
        "day": DAYS,
        "brand": pl.Series(["a", "b", None, "c"], dtype=pl.Categorical),
        "grade": pl.Series(["a", "b", None, "c"], dtype=pl.Enum(["a", "b", "c"])),
        "box": [{"k": 1}] * 4,
    }
)


@pytest.mark.parametrize(
    ("where", "items"),
    [
        ({}, [0, 1, 2, 3]),
        ({"kind": "lip"}, [0]),
        ({"kind": ["lip", "eye", "?"]}, [0, 1]),
        ({"kind": []}, []),
        ({"kind": {"contains": "lip"}}, [0, 3]),
        ({"kind": {"not": "lip"}}, [1, 3]),
        ({"kind": {"not": {"contains": "lip"}}}, [1]),
        ({"kind": None}, [2]),
        ({"kind": {"not": None}}, [0, 1, 3]),
        ({"price": 20}, [2]),
        ({"price": {"max": 20}}, [0, 2]),
        ({"price": {"min": 0}}, [0, 2]),
        ({"price": {"min": 1, "max": 19.5}}, [0]),
        ({"price": {"not": {"max": 5}}}, [2]),
        ({"price": None}, [1, 3]),
        ({"size": [1, 2.5, 300]}, [0]),
        ({"size": {"max": 300, "min": 2}}, [1, 3]),
        ({"stock": True}, [0, 3]),
        ({"stock": {"not": True}}, [1]),
        ({"tags": "x"}, [0]),
        ({"tags": ["y", "z"]}, [0, 3]),
        ({"tags": {"not": "x"}}, [1, 3]),
        ({"tags": None}, [2]),
        ({"day": {"min": date(2021, 1, 1)}}, [2, 3]),
        ({"brand": ["c", "?"]}, [3]),
        ({"grade": {"contains": "b"}}, [1]),
        ({"kind": {"contains": "lip"}, "stock": True, "price": {"max": 9}}, [0]),
    ],
)
def test_conditions(where: dict[str, Any], items: list[int]) -> None:
    for table in (TABLE, TABLE.drop("brand", "grade").to_arrow()):
        if set(where) <= set(pl.DataFrame(table).columns):
            assert ItemAttributes(table).mask(where).nonzero().squeeze(1).tolist() == items


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"colour": 1}, r"no column 'colour'; they have kind \(String\), price \(Float64\)"),
        ({"kind": 3}, r"'kind' \(String\) needs text, got 3"),
        ({"kind": {"min": "a"}}, r"'kind' \(String\) cannot be asked for {'min': 'a'}; give"),
        ({"kind": {}}, "cannot be asked for {}"),
        ({"kind": {"like": "a"}}, "cannot be asked for"),
        ({"price": "3"}, "needs a number, got '3'"),
        ({"price": True}, "needs a number, got True"),
        ({"price": {"min": None}}, "needs a number, got None"),
        ({"stock": 1}, "needs True or False, got 1"),
        ({"day": datetime(2020, 1, 1)}, "needs a date"),
        ({"tags": [1]}, "needs text, got 1"),
        ({"box": 1}, "for which there are no conditions"),
    ],
)
def test_wrong_conditions(where: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ItemAttributes(TABLE).mask(where)


def test_random_conditions_against_python() -> None:
    rng = np.random.default_rng(0)
    kinds = [("a", "b", "c", None)[n] for n in rng.integers(0, 4, 500)]
    prices = [None if n > 45 else n for n in rng.integers(0, 50, 500).tolist()]
    attributes = ItemAttributes({"kind": kinds, "price": prices})
    for _ in range(30):
        low, high = sorted(rng.integers(0, 50, 2).tolist())
        some = rng.choice(["a", "b", "c"], 2).tolist()
        tests: list[tuple[dict[str, Any], Callable[[Any, Any], bool]]] = [
            ({"min": low, "max": high}, lambda k, p, a=low, b=high: a <= p <= b),  # type: ignore
            ({"not": {"min": low}}, lambda k, p, a=low: p < a),  # type: ignore
        ]
        for price, holds in tests:
            mask = attributes.mask({"kind": some, "price": price})
            expected = [
                k in some and p is not None and holds(k, p)
                for k, p in zip(kinds, prices, strict=True)
            ]
            assert mask.tolist() == expected


def test_predicates_are_shared_and_follow_the_snapshot() -> None:
    attributes = ItemAttributes({"price": [1, 2, 3, 4]}, cache_size=2)
    codes = [[0, 0], [0, 1], [1, 0], [1, 1]]
    catalogue = Catalogue(SidTrie.from_sids(codes[:3], [2, 2], [[0, 1], [2, 3]]))
    first = catalogue.snapshot()
    cheap = attributes.allowed(first, {"price": {"max": 2}})
    assert cheap.mask.tolist() == [True, True, False]  # the fourth is not there yet
    assert attributes.allowed(first, {"price": {"max": 2}}) is cheap
    attributes.allowed(first, {"price": 1})
    assert attributes.allowed(first, {"price": {"max": 2}}) is cheap
    attributes.allowed(first, {"price": 2})
    attributes.allowed(first, {"price": 3})
    assert attributes.allowed(first, {"price": {"max": 2}}) is not cheap  # pushed out

    catalogue.add(codes[3:])
    catalogue.retire([0])
    second = catalogue.snapshot()
    allowed = attributes.allowed(second, {"price": {"max": 2}})
    assert allowed.mask.tolist() == [False, True, False, False]
    alive = ItemFilter(second, 1, allowed).item_alive(torch.arange(4).unsqueeze(0))[0]
    assert second.item_of_place[alive].tolist() == [1]

    catalogue.add([[0, 0]])
    with pytest.raises(ValueError, match="4 rows for 5 items; give the added items' rows"):
        attributes.allowed(catalogue.snapshot(), {"price": 1})
    more = attributes.extended({"price": [2]})
    assert more.allowed(catalogue.snapshot(), {"price": 2}).mask.tolist() == [0, 1, 0, 0, 1]
    with pytest.raises(ValueError, match="more rows of"):
        attributes.extended({"cost": [2]})
