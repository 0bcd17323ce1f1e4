"""Semantic-ID tokens and the language model's token ids: the one place that adds tokens.

Shape letters: I items, U users, L levels, K codebook size.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken

from dasrec.core import SemanticIds
from dasrec.generative.data.prompts import TIME_BUCKETS

FILE = "vocabulary.json"
CONTROL_TOKENS = (
    "<|user|>",
    "<|anonymous|>",
    "<|item|>",
    "<|text|>",
    "<|history|>",
    "<|intention|>",
    "<|preferences|>",
    "<|reason|>",
)
"""Start of a known user's sequence, of an unknown user's; start of an item, of a text, of a history
of texts, of words for what is wanted, of a question for preferences, of a reason. In the tokenizer
they are named `<|das_user|>` and so on: chat models have a `<|user|>` of their own."""


@dataclass(frozen=True)
class SidVocabulary:
    """Token ids of every (side, level, code) and of the control tokens.

    SID tokens are named `<i0_17>` (item, level 0, code 17) and `<u0_17>` (user).
    """

    item_levels: tuple[tuple[int, ...], ...]
    """Per item level the token id of each code."""
    user_levels: tuple[tuple[int, ...], ...]
    """Per user level the token id of each code; empty without user SIDs."""
    control: dict[str, int]
    """Token id of each control token."""
    sids_fingerprint: str
    """Fingerprint of the SemanticIds that the tokens stand for."""
    has_text: bool = True
    """Whether the tokenizer also reads text; see `BaseModelConfig.sid_vocabulary_only`."""
    time_tokens: tuple[int, ...] = ()
    """Token id of each time bucket, then of unknown gaps; empty for a prompt format without."""

    @property
    def new_token_ids(self) -> list[int]:
        """Ids of all tokens that were added, ascending."""
        levels = (*self.item_levels, *self.user_levels)
        return sorted(
            [*self.control.values(), *self.time_tokens, *(t for level in levels for t in level)]
        )

    def item_tokens(self, sids: SemanticIds) -> npt.NDArray[np.int64]:
        """(I, L) token ids of every item.

        Raises:
            ValueError: `sids` are not the ones this vocabulary was built for.
        """
        self.check(sids)
        return _lookup(np.asarray(sids.items.codes), self.item_levels)

    def user_tokens(self, sids: SemanticIds) -> npt.NDArray[np.int64] | None:
        """(U, L) token ids of every user, or None where there are no user SIDs."""
        self.check(sids)
        if sids.users is None or not self.user_levels:
            return None
        return _lookup(np.asarray(sids.users.codes), self.user_levels)

    def check(self, sids: SemanticIds) -> None:
        """Refuse semantic IDs other than those the tokens were made for or a later version.

        Raises:
            ValueError: `sids` do not extend them, or have levels of other sizes.
        """
        if not sids.extends(self.sids_fingerprint):
            raise ValueError(
                f"vocabulary was built from semantic IDs {self.sids_fingerprint}, but "
                f"{sids.fingerprint} were given, which do not extend them; use the SIDs that the "
                "model was trained with or a later version of them"
            )
        tables = [("items", sids.items, self.item_levels)]
        if sids.users is not None:
            tables.append(("users", sids.users, self.user_levels))
        for side, table, levels in tables:
            sizes = tuple(map(len, levels))
            if table.level_sizes != sizes:
                raise ValueError(
                    f"vocabulary has {side} levels of {sizes} codes, but the semantic IDs have "
                    f"{table.level_sizes}; use the SIDs that the model was trained with"
                )

    def save(self, directory: Path) -> None:
        """Write vocabulary.json."""
        (directory / FILE).write_text(
            json.dumps(
                {
                    "item_levels": self.item_levels,
                    "user_levels": self.user_levels,
                    "control": self.control,
                    "sids_fingerprint": self.sids_fingerprint,
                    "has_text": self.has_text,
                    "time_tokens": self.time_tokens,
                }
            )
        )


def load_vocabulary(directory: str | Path) -> SidVocabulary:
    """Read vocabulary.json."""
    values = json.loads((Path(directory) / FILE).read_text())
    return SidVocabulary(
        tuple(map(tuple, values["item_levels"])),
        tuple(map(tuple, values["user_levels"])),
        values["control"],
        values["sids_fingerprint"],
        values.get("has_text", True),  # absent from files of earlier versions, like the next
        tuple(values.get("time_tokens", ())),
    )


def add_sid_tokens(
    tokenizer: Any, sids: SemanticIds, *, has_text: bool = True, has_time: bool = False
) -> SidVocabulary:
    """Add one token per (side, level, code) and the control tokens to a Hugging Face tokenizer.

    Added tokens are atomic and not "special", so `skip_special_tokens` keeps them readable.

    Args:
        tokenizer: gets the tokens.
        sids: what they stand for.
        has_text: whether the tokenizer reads text beside them.
        has_time: whether to add tokens for gaps in time, `<t_0>` ... and `<t_unknown>`.

    Raises:
        ValueError: the tokenizer already holds tokens of these names, or gives new tokens ids
            that are taken.
    """
    levels = {"i": sids.items.level_sizes, "u": sids.users.level_sizes if sids.users else ()}
    names = {
        side: [
            [f"<{side}{level}_{code}>" for code in range(size)] for level, size in enumerate(sizes)
        ]
        for side, sizes in levels.items()
    }
    control = {name: name.replace("<|", "<|das_") for name in CONTROL_TOKENS}
    times = [*(f"<t_{bucket}>" for bucket in range(TIME_BUCKETS)), "<t_unknown>"] * has_time
    flat = [
        *control.values(),
        *times,
        *(name for side in names.values() for level in side for name in level),
    ]
    known = tokenizer.get_vocab()
    if taken := [name for name in flat if name in known]:
        raise ValueError(
            f"the tokenizer already has SID tokens ({taken[0]}); start from the plain base model"
        )
    ids_before = set(known.values())
    tokenizer.add_tokens([AddedToken(name, normalized=False, special=False) for name in flat])
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in flat}
    if shared := [name for name in flat if ids[name] in ids_before]:
        raise ValueError(
            f"the tokenizer gave {shared[0]} the id {ids[shared[0]]}, which another token has: its "
            "vocabulary has gaps; take another base model"
        )
    return SidVocabulary(
        item_levels=tuple(tuple(ids[name] for name in level) for level in names["i"]),
        user_levels=tuple(tuple(ids[name] for name in level) for level in names["u"]),
        control={name: ids[token] for name, token in control.items()},
        sids_fingerprint=sids.fingerprint,
        has_text=has_text,
        time_tokens=tuple(ids[name] for name in times),
    )


def _lookup(codes: npt.NDArray[Any], levels: tuple[tuple[int, ...], ...]) -> npt.NDArray[np.int64]:
    columns = [np.array(ids)[codes[:, level]] for level, ids in enumerate(levels)]
    return np.stack(columns, axis=1).astype(np.int64)
