"""Items and users of the synthetic data: their tables and the latent truth behind them.

Shape letters: U users, I items, F latent factors, C leaf categories, K interests per user.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from dasrec.core.synthetic_words import (
    AGE_GROUPS,
    BRANDS,
    GENDERS,
    LEAVES,
    NUM_FEATURES,
    NUM_TYPES,
    REGIONS,
    STYLE_PRICE,
    STYLES,
)

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

NUM_FACTORS = 32
NUM_INTERESTS = 4
DAY = 86_400

_PATHS = [leaf.path.split(" > ") for leaf in LEAVES]
_NAMES = [path[2] for path in _PATHS]
_DEPARTMENTS = list(dict.fromkeys(path[0] for path in _PATHS))
_GROUPS = list(dict.fromkeys(path[1] for path in _PATHS))
LEAF_DEPARTMENT = np.array([_DEPARTMENTS.index(path[0]) for path in _PATHS])
"""(C,)"""
LEAF_GROUP = np.array([_GROUPS.index(path[1]) for path in _PATHS])
"""(C,)"""
COMPLEMENT = np.array([_NAMES.index(leaf.complement) for leaf in LEAVES])
"""(C,) the leaf that follows; a permutation without fixed points."""


@dataclass(frozen=True)
class Prototypes:
    """Latent vectors shared by items and users, each about of unit length."""

    leaf: Floats
    """(C, F) department + group + leaf, so that neighbours in the tree are alike."""
    kind: Floats
    """(C * NUM_TYPES, F) what sets a product type apart within its leaf."""
    style: Floats
    """(styles, F)"""
    brand: Floats
    """(brands, F)"""


@dataclass(frozen=True)
class Items:
    """The catalogue."""

    leaf: Ints
    """(I,) leaf category."""
    interest: Floats
    """(I, F) what the item offers; most of it, not all, shows in the text."""
    popularity: Floats
    """(I,) appeal that is not interest: standardised log of a Zipf law."""
    release: Ints
    """(I,) seconds since the start of the log; negative = before it."""
    table: pl.DataFrame


@dataclass(frozen=True)
class Users:
    """The people."""

    interest: Floats
    """(U, F)"""
    leaves: Ints
    """(U, K) leaf categories of interest."""
    cumulative: Floats
    """(U, K) running sum of the interests' shares; ends at 1."""
    conformity: Floats
    """(U,) >= 0, weight of an item's popularity in the user's choices."""
    table: pl.DataFrame


def make_prototypes(rng: np.random.Generator) -> Prototypes:
    """Draw the latent vectors."""

    def draw(rows: int) -> Floats:
        return np.asarray(rng.normal(size=(rows, NUM_FACTORS)) / np.sqrt(NUM_FACTORS), np.float32)

    leaf = 0.4 * draw(len(_DEPARTMENTS))[LEAF_DEPARTMENT] + 0.5 * draw(len(_GROUPS))[LEAF_GROUP]
    return Prototypes(
        leaf=(leaf + 0.77 * draw(len(LEAVES))).astype(np.float32),
        kind=draw(len(LEAVES) * NUM_TYPES),
        style=draw(len(STYLES)),
        brand=draw(len(BRANDS)),
    )


def make_items(
    prototypes: Prototypes,
    num_items: int,
    *,
    span: int,
    cold_share: float,
    cold_from: float,
    rng: np.random.Generator,
) -> Items:
    """Draw the catalogue; all traits of an item are independent of its row.

    Args:
        prototypes: the latent vectors.
        num_items: I.
        span: seconds that the log covers.
        cold_share: share of items released in the last part of the log.
        cold_from: where that part begins, as a share of the span.
        rng: source of randomness.
    """
    leaf = rng.choice(len(LEAVES), num_items, p=rng.dirichlet(np.full(len(LEAVES), 8.0)))
    kind = leaf * NUM_TYPES + rng.integers(NUM_TYPES, size=num_items)
    brand = LEAF_DEPARTMENT[leaf] * 8 + rng.integers(8, size=num_items)
    style = np.where(
        rng.random(num_items) < 0.6, brand % 8, rng.integers(len(STYLES), size=num_items)
    )
    noise = rng.normal(size=(num_items, NUM_FACTORS)) / np.sqrt(NUM_FACTORS)
    interest = (
        0.75 * prototypes.leaf[leaf]
        + 0.4 * prototypes.kind[kind]
        + 0.4 * prototypes.style[style]
        + 0.2 * prototypes.brand[brand]
        + 0.35 * noise
    )
    appeal = -np.log(rng.permutation(num_items) + 1.0)
    return Items(
        leaf=leaf,
        interest=interest.astype(np.float32),
        popularity=((appeal - appeal.mean()) / max(appeal.std(), 1e-9)).astype(np.float32),
        release=_releases(num_items, span, cold_share, cold_from, rng),
        table=_item_table(leaf, kind, brand, style, rng),
    )


def _releases(
    num_items: int, span: int, cold_share: float, cold_from: float, rng: np.random.Generator
) -> Ints:
    """Cold items late in the log, a quarter of the rest during it, the others the year before."""
    cold = rng.random(num_items) < cold_share
    during = rng.random(num_items) < 0.25
    place = rng.random(num_items)
    late = cold_from + (1 - cold_from) * 0.8 * place  # the last fifth is left for being seen
    first = np.where(during, cold_from * place, -place * 365 * DAY / span)
    return np.asarray(np.where(cold, late, first) * span, np.int64)


def _item_table(
    leaf: Ints, kind: Ints, brand: Ints, style: Ints, rng: np.random.Generator
) -> pl.DataFrame:
    num_items = len(leaf)
    types = np.array([name for row in LEAVES for name in row.types])
    features = np.array([row.features for row in LEAVES])
    first = rng.integers(NUM_FEATURES, size=num_items)
    second = (first + rng.integers(1, NUM_FEATURES, size=num_items)) % NUM_FEATURES
    adjectives, sentences = (np.array(column) for column in zip(*STYLES.values(), strict=True))
    price = (
        np.array([row.price for row in LEAVES])[leaf]
        * np.array(STYLE_PRICE)[style]
        * rng.lognormal(0.0, 0.25, num_items)
    )
    words = pl.DataFrame(
        {
            "item_id": _ids("I", num_items),
            "brand": np.array(BRANDS)[brand],
            "adjective": adjectives[style],
            "type": types[kind],
            "category": np.array([row.path for row in LEAVES])[leaf],
            "sentence": sentences[style],
            "first": features[leaf, first],
            "second": features[leaf, second],
            "price": price.round(2),
            "named": rng.random(num_items) < 0.6,  # not every title tells the style
        }
    )
    noun = pl.col("type").str.to_titlecase()
    kind_name = pl.col("type").str.head(1).str.to_uppercase() + pl.col("type").str.slice(1)
    return words.select(
        "item_id",
        title=pl.when("named")
        .then(pl.format("{} {} {}", "brand", "adjective", noun))
        .otherwise(pl.format("{} {}", "brand", noun)),
        category="category",
        brand="brand",
        description=pl.format("{}. {} with {} and {}.", "sentence", kind_name, "first", "second"),
        price="price",
    )


def make_users(
    prototypes: Prototypes, num_users: int, *, conformity: float, rng: np.random.Generator
) -> Users:
    """Draw the users; the profile says a little about the interests.

    Args:
        prototypes: the latent vectors.
        num_users: U.
        conformity: mean of the users' conformity (Gamma distributed, shape 2).
        rng: source of randomness.
    """
    age, gender, region = (
        rng.integers(len(names), size=num_users) for names in (AGE_GROUPS, GENDERS, REGIONS)
    )
    # Liking of a department depends a little on age and gender, mostly on the person.
    shape = (len(AGE_GROUPS), len(GENDERS), len(_DEPARTMENTS))
    liking = 0.8 * rng.normal(size=shape)[age, gender]
    liking = liking + 1.5 * rng.gumbel(size=(num_users, len(_DEPARTMENTS)))
    logits = liking[:, LEAF_DEPARTMENT] + rng.gumbel(size=(num_users, len(LEAVES)))
    leaves = np.argpartition(-logits, NUM_INTERESTS, axis=1)[:, :NUM_INTERESTS]
    leaves = rng.permuted(leaves, axis=1)
    shares = rng.dirichlet(np.full(NUM_INTERESTS, 1.5), num_users)
    style = rng.integers(len(STYLES), size=num_users)
    kind = leaves * NUM_TYPES + rng.integers(NUM_TYPES, size=leaves.shape)
    interest = 0.45 * prototypes.style[style]
    interest = interest + 0.2 * rng.normal(size=interest.shape) / np.sqrt(NUM_FACTORS)
    for k in range(NUM_INTERESTS):
        wanted = prototypes.leaf[leaves[:, k]] + 0.5 * prototypes.kind[kind[:, k]]
        interest += 1.4 * shares[:, k : k + 1] * wanted
    cumulative = np.cumsum(shares, axis=1)
    cumulative[:, -1] = 1.0
    favourite = leaves[np.arange(num_users), shares.argmax(1)]
    return Users(
        interest=interest.astype(np.float32),
        leaves=leaves,
        cumulative=cumulative.astype(np.float32),
        conformity=rng.gamma(2.0, conformity / 2.0, num_users).astype(np.float32),
        table=_user_table(age, gender, region, style, favourite, rng),
    )


def _user_table(
    age: Ints, gender: Ints, region: Ints, style: Ints, favourite: Ints, rng: np.random.Generator
) -> pl.DataFrame:
    num_users = len(age)
    said_style = np.where(
        rng.random(num_users) < 0.7, style, rng.integers(len(STYLES), size=num_users)
    )
    said_leaf = np.where(
        rng.random(num_users) < 0.5, favourite, rng.integers(len(LEAVES), size=num_users)
    )
    group = np.array([path[1].lower() for path in _PATHS])[said_leaf]
    words = pl.DataFrame(
        {
            "user_id": _ids("U", num_users),
            "age_group": np.array(AGE_GROUPS)[age],
            "gender": np.array(GENDERS)[gender],
            "region": np.array(REGIONS)[region],
            "style": np.array(list(STYLES))[said_style],
            "group": group,
        }
    )
    return words.select(
        "user_id",
        "age_group",
        "gender",
        "region",
        preference=pl.format("{} things, mostly {}", "style", "group"),
    )


def _ids(letter: str, count: int) -> pl.Series:
    width = max(4, len(str(count)))
    number = pl.int_range(1, count + 1).cast(pl.String).str.zfill(width)
    return pl.select(id=pl.format(letter + "{}", number))["id"]
