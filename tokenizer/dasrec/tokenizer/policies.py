"""The collision policies: from learned codes to SIDs.

Shape letters: I items, L levels, D code dimension, P published rows.
"""

from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from dasrec.core import SidTable, StageConfig
from dasrec.tokenizer.collisions import Ints, number_groups, reassign_last

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint16]
Size = Annotated[int, Field(ge=1)]


class AssignConfig(StageConfig):
    """How SIDs are given out."""

    collisions: Literal["extra_level", "reassign_last", "cap", "share"] = "extra_level"
    """Items whose codes coincide: `extra_level` appends a code that numbers them (TIGER);
    `reassign_last` moves all but the most popular to the nearest free last codeword; `cap` moves
    what `cap` items per SID leave over (FORGE); `share` leaves them (for features of a ranking
    model). Users always share: a user SID is a feature, nothing is looked up by it."""
    cap: Size | None = None
    """For `cap`: items per SID at most (FORGE: 5)."""
    extra_level_size: Size = 1
    """Codes of the extra level at least; more where a group of colliding items is larger. What is
    left free is the room for items that come later: a published level does not grow."""

    user_moments: bool = False
    """Also give every user a SID for each moment of their history, so that a ranking model learns
    from the one that the user had at the impression. Needs `embed.users` history_mean; tokenizers
    without user SIDs have none of these either."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.cap is not None) != (self.collisions == "cap"):
            raise ValueError(
                f"cap is needed with collisions 'cap' and has no effect otherwise, got cap "
                f"{self.cap} with collisions '{self.collisions}'"
            )
        return self


def resolve_collisions(
    config: AssignConfig,
    table: SidTable,
    residual_ID: Floats,
    popularity_I: Ints,
    *,
    published: SidTable | None = None,
) -> SidTable:
    """Apply `config.collisions` to item SIDs. z stays the sum of the learned codewords.

    Args:
        config: the policy.
        table: learned codes.
        residual_ID: what the last level quantized.
        popularity_I: training interactions, for who comes first.
        published: rows that hold their SIDs already, under the same policy. `table` is fitted in
            beside them.

    Returns:
        `table`, with the codes (and vectors) of the policy.

    Raises:
        ValueError: see `reassign_last`; a group too large for uint16 codes, or for the extra
            level of `published`.
    """
    if config.collisions == "share":
        return table
    taken_PL = np.empty((0, table.num_levels + 1), np.int64)
    if published is not None:
        taken_PL = published.codes.astype(np.int64)
    rows = len(taken_PL)
    codes = np.concatenate([taken_PL[:, : table.num_levels], table.codes.astype(np.int64)])
    popularity = np.concatenate([np.zeros(rows, np.int64), popularity_I])
    if config.collisions == "extra_level":
        held = np.concatenate([taken_PL[:, -1], np.full(len(table.codes), -1)])
        number_I = number_groups(codes, popularity, held)[rows:]
        size = _extra_size(config, int(number_I.max(initial=0)) + 1, published)
        with_extra = np.column_stack([table.codes, number_I]).astype(np.uint16)
        return SidTable(with_extra, (*table.level_sizes, size), table.vectors, table.codebooks)
    residual = np.concatenate([np.zeros((rows, residual_ID.shape[1]), np.float32), residual_ID])
    moved = reassign_last(
        codes,
        residual,
        table.codebooks[-1],
        popularity,
        cap=config.cap or 1,
        fixed_I=np.arange(len(codes)) < rows,
    )[rows:]
    shift_ID = table.codebooks[-1][moved[:, -1]] - table.codebooks[-1][table.codes[:, -1]]
    return SidTable(
        moved.astype(np.uint16), table.level_sizes, table.vectors + shift_ID, table.codebooks
    )


def _extra_size(config: AssignConfig, needed: int, published: SidTable | None) -> int:
    if published is not None:
        size = published.level_sizes[-1]
        if needed > size:
            raise ValueError(
                f"assign: the largest group of items with one SID needs {needed} numbers, but the "
                f"published extra level has {size} codes, which trained generators count on; "
                "publish anew with room to grow (assign.extra_level_size) and train on that"
            )
        return size
    size = max(config.extra_level_size, needed)
    if size > 65_536:
        raise ValueError(
            f"assign: a group of at most 65536 items with one SID can be numbered, got {size}; "
            "train the tokenizer with larger levels"
        )
    return size
