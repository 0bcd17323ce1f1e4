"""What is compared: arms, feature modes and seeds."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from dasrec.core.config import StageConfig, build_config
from dasrec.ranking.config import RankingConfig

BASELINE = "id_only"
SHUFFLED = "id_shuffled"
SHUFFLED_ITEMS = "id_shuffled_item"


class ArmConfig(StageConfig):
    """One way to train the CTR model."""

    tokenizer: str | None = None
    """Name of the tokenizer whose SIDs are features; none = no SIDs."""

    shuffle_sids: bool = False
    """Permute SIDs among items and among users: the same capacity and collisions, no meaning."""

    content: bool = False
    """Add the item vectors of the run's embeddings, frozen: what SIDs are made from, undigested."""

    train: dict[str, Any] = Field(default_factory=dict)
    """What differs from `ranking.train`, e.g. {features: {user_sids: false}}."""

    against: tuple[str, ...] = (BASELINE,)
    """Arms it is compared with."""


class CompareConfig(StageConfig):
    """A comparison of arms over seeds."""

    arms: dict[str, ArmConfig] | None = None
    """Arms by name; none given = `default_arms` of the config's tokenizers."""

    modes: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Feature modes by name: what differs from `ranking.train`. Every arm with SIDs is trained in
    every mode, as ARM.MODE; without modes once."""

    seeds: tuple[int, ...] = Field(default=(0, 1, 2, 3, 4), min_length=1)
    """Seeds of initial weights, order of rows and sampled negatives; the same for every arm."""

    num_samples: int = Field(default=10_000, ge=100)
    """Resamples of the users, and random swaps."""


class Arm(NamedTuple):
    """An arm in one mode, ready to be trained."""

    name: str
    tokenizer: str | None
    shuffle_sids: bool
    train: RankingConfig
    against: tuple[str, ...]


def default_arms(main: str, tokenizers: Sequence[str]) -> dict[str, ArmConfig]:
    """The arms that tell what semantic IDs are worth, and which.

    No SIDs; shuffled SIDs, of both sides and of the items alone; those of every other tokenizer;
    item SIDs, user SIDs and both of the main tokenizer; SIDs without ids; the content vectors.

    Args:
        main: the tokenizer whose worth is to be shown.
        tokenizers: all that there are.
    """
    others = {f"id_{name}": ArmConfig(tokenizer=name) for name in tokenizers if name != main}
    items_only: dict[str, Any] = {"features": {"user_sids": False}}
    return {
        BASELINE: ArmConfig(against=()),
        SHUFFLED: ArmConfig(tokenizer=main, shuffle_sids=True),
        SHUFFLED_ITEMS: ArmConfig(tokenizer=main, shuffle_sids=True, train=items_only),
        **others,
        f"id_{main}_item": ArmConfig(
            tokenizer=main, train=items_only, against=(BASELINE, SHUFFLED_ITEMS, *others)
        ),
        f"id_{main}_user": ArmConfig(tokenizer=main, train={"features": {"item_sids": False}}),
        f"id_{main}": ArmConfig(
            tokenizer=main, against=(BASELINE, SHUFFLED, *others, f"id_{main}_item")
        ),
        "sid_only": ArmConfig(tokenizer=main, train={"features": {"ids": False}}),
        "id_content": ArmConfig(content=True),
    }


def plan_arms(
    config: CompareConfig,
    train: RankingConfig,
    main: str,
    tokenizers: Sequence[str],
    embeddings: Path,
) -> dict[str, Arm]:
    """Every arm in every mode, by name, after checking all of them.

    Args:
        config: which arms.
        train: the section that they differ from.
        main: the tokenizer whose worth is to be shown.
        tokenizers: all that there are.
        embeddings: artifact for arms with `content`.

    Raises:
        ValueError: an arm with an unknown tokenizer, an unknown rival, a bad name or settings that
            `ranking.train` does not take. The message names the arm.
    """
    arms = config.arms if config.arms is not None else default_arms(main, tokenizers)
    for name, arm in arms.items():
        _check(name, arm, arms, tokenizers)
    for mode in config.modes:
        _check_name(f"ranking.compare.modes.{mode}", mode)
    planned = {}
    for name, arm in arms.items():
        modes = config.modes if arm.tokenizer is not None and config.modes else {"": {}}
        for mode, differences in modes.items():
            where = f"ranking.compare: arm '{_full(name, mode)}'"
            values = _merged(_merged(train.as_json(), differences), arm.train)
            if arm.content:
                dense = {"type": "dense", "name": "content", "side": "item"}
                values["features"]["fields"] += [dense | {"path": str(embeddings)}]
            planned[_full(name, mode)] = Arm(
                _full(name, mode),
                arm.tokenizer,
                arm.shuffle_sids,
                build_config(RankingConfig, values, where),
                tuple(_full(other, mode if arms[other].tokenizer else "") for other in arm.against),
            )
    return planned


def _full(name: str, mode: str) -> str:
    return f"{name}.{mode}" if mode else name


def _check(
    name: str, arm: ArmConfig, arms: Mapping[str, ArmConfig], tokenizers: Sequence[str]
) -> None:
    where = f"ranking.compare.arms.{name}"
    _check_name(where, name)
    if arm.tokenizer is not None and arm.tokenizer not in tokenizers:
        raise ValueError(
            f"{where}.tokenizer: '{arm.tokenizer}' is not in tokenizers "
            f"({', '.join(tokenizers) or 'none'})"
        )
    if arm.shuffle_sids and arm.tokenizer is None:
        raise ValueError(f"{where}.shuffle_sids: there are no SIDs to shuffle; name a tokenizer")
    for other in arm.against:
        if other not in arms or other == name:
            raise ValueError(f"{where}.against: '{other}' is not another arm ({', '.join(arms)})")


def _check_name(where: str, name: str) -> None:
    """A name becomes a folder, and `variant` or `method` of recorded figures."""
    if not re.fullmatch(r"[a-z0-9_]+", name):
        raise ValueError(f"{where}: use lower-case letters, digits and _ in the name")


def _merged(values: Mapping[str, Any], differences: Mapping[str, Any]) -> dict[str, Any]:
    """Nested sections are merged, everything else is replaced."""
    merged = dict(values)
    for key, value in differences.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = _merged(old, value) if both else value  # type: ignore[arg-type]
    return merged
