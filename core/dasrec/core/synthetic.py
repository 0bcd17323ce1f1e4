"""Stage `synthesize`: a seeded catalogue and click log, the data of a first run without a network.

People with mixed interests visit for a purpose, are shown slates, look at the top more than at the
bottom, and click by interest, purpose, popularity (as far as they follow the crowd) and novelty.
What stands behind every click is kept beside the log in `truth/`.

Shape letters: U users, I items, F latent factors, S slate positions, M impressions.
"""

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from dasrec.core.artifacts import Manifest, write_artifact
from dasrec.core.config import StageConfig
from dasrec.core.seeding import generator
from dasrec.core.synthetic_log import Log, Weights, make_clicks, make_sessions, make_slates
from dasrec.core.synthetic_world import (
    DAY,
    Floats,
    Items,
    Users,
    make_items,
    make_prototypes,
    make_users,
)

log = logging.getLogger(__name__)

EPOCH = 1_704_067_200
"""The log begins on 2024-01-01 00:00 UTC."""


class SyntheticConfig(StageConfig):
    """Size and character of the synthetic data."""

    num_users: int = Field(default=2_000, ge=1)
    """U."""

    num_items: int = Field(default=1_000, ge=2)
    """I."""

    sessions_per_user: float = Field(default=13.0, gt=0)
    """Mean number of visits; some users come far more often than others."""

    slate_size: int = Field(default=10, ge=1)
    """Items shown per visit (fewer where they were clicked before)."""

    days: int = Field(default=60, ge=7)
    """Length of the log."""

    ctr: float = Field(default=0.22, gt=0, lt=0.5)
    """Share of impressions that are clicked. Items that a user has clicked are then taken out of
    later slates, which leaves a little less."""

    conformity: float = Field(default=0.5, ge=0)
    """Mean weight of popularity in the users' choices; 0 makes all clicks free of it."""

    position_bias: float = Field(default=0.35, ge=0)
    """Position p (from 0) is looked at with probability (p + 1)^-position_bias."""

    cold_share: float = Field(default=0.08, ge=0, lt=1)
    """Share of items that are released in the last `cold_days`."""

    cold_days: int = Field(default=9, ge=1)
    """See `cold_share`; a training cut before them leaves these items without clicks."""


def generate(
    config: SyntheticConfig, out: Path, *, seed: int = 0, replace: bool = False
) -> Manifest:
    """Write the artifact `synthetic_raw`.

    Files: `impressions.parquet` (user_id, item_id, timestamp in seconds, position from 0, click),
    in order of time; `items.parquet` and `users.parquet`, in an order that tells nothing; and
    `truth/`, whose rows follow those three: user_interest (U, F), item_interest (I, F),
    user_conformity (U,), item_popularity (I,), item_release (I,) in seconds UTC, examination (S,),
    click_probability (M,), and weights.json, the coefficients of the click model
    (`synthetic_log.make_clicks`).

    Args:
        config: sizes and strengths.
        out: the artifact directory to create.
        seed: equal seeds make equal files.
        replace: swap an artifact that is already there for the new one.

    Raises:
        ValueError: `cold_days` leaves no time before the cold items.
    """
    if config.cold_days >= config.days:
        raise ValueError(
            f"synthetic.cold_days: must be fewer than days ({config.days}), got {config.cold_days}"
        )
    span = config.days * DAY
    prototypes = make_prototypes(generator(seed, "synthetic", "prototypes"))
    items = make_items(
        prototypes,
        config.num_items,
        span=span,
        cold_share=config.cold_share,
        cold_from=1 - config.cold_days / config.days,
        rng=generator(seed, "synthetic", "items"),
    )
    users = make_users(
        prototypes,
        config.num_users,
        conformity=config.conformity,
        rng=generator(seed, "synthetic", "users"),
    )
    rng = generator(seed, "synthetic", "log")
    sessions = make_sessions(users, config.sessions_per_user, span, rng)
    slates, filled = make_slates(sessions, users, items, config.slate_size, rng)
    examination = np.arange(1, config.slate_size + 1) ** -np.float32(config.position_bias)
    weights = Weights()
    clicks = make_clicks(
        sessions,
        slates,
        filled,
        users,
        items,
        examination,
        weights=weights,
        ctr=config.ctr,
        rng=rng,
    )
    num_clicks = int(clicks.click.sum())
    log.info(
        "synthetic: %d users, %d items, %d impressions, %d clicks",
        config.num_users,
        config.num_items,
        len(clicks.click),
        num_clicks,
    )

    def payload(scratch: Path) -> None:
        _save_tables(scratch, users, items, clicks)
        _save_truth(scratch / "truth", users, items, examination, weights, clicks.bias)

    return write_artifact(
        out,
        "synthetic_raw",
        config.as_json(),
        {},
        payload,
        seed=seed,
        metrics={"num_impressions": len(clicks.click), "num_clicks": num_clicks},
        replace=replace,
    )


def _save_tables(path: Path, users: Users, items: Items, clicks: Log) -> None:
    order = np.lexsort((clicks.user, clicks.time))
    pl.DataFrame(
        {
            "user_id": users.table["user_id"].gather(clicks.user[order]),
            "item_id": items.table["item_id"].gather(clicks.item[order]),
            "timestamp": EPOCH + clicks.time[order],
            "position": clicks.position[order].astype(np.int16),
            "click": clicks.click[order],
        }
    ).write_parquet(path / "impressions.parquet")
    items.table.write_parquet(path / "items.parquet")
    users.table.write_parquet(path / "users.parquet")
    (path / "truth").mkdir()
    np.save(path / "truth" / "click_probability.npy", clicks.probability[order])


def _save_truth(
    path: Path, users: Users, items: Items, examination: Floats, weights: Weights, bias: float
) -> None:
    arrays: dict[str, npt.NDArray[Any]] = {
        "user_interest": users.interest,
        "item_interest": items.interest,
        "user_conformity": users.conformity,
        "item_popularity": items.popularity,
        "item_release": EPOCH + items.release,
        "examination": examination,
    }
    for name, values in arrays.items():
        np.save(path / f"{name}.npy", values)
    (path / "weights.json").write_text(json.dumps({**dataclasses.asdict(weights), "bias": bias}))
