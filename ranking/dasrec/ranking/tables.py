"""What is known of every user and item, as lookup tables of embedding rows.

Shape letters: U users, I items, A categories, N numbers, S sequences of K values, E widths of
dense vectors, L semantic-ID levels, D width of a quantized vector.
Item tables have I + 1 rows: row 0 is padding and any unknown item, item_idx i is row i + 1. User
tables have U + 1 rows: row U is any unknown user. Those of user SIDs over time have S + 1 rows: one
for each distinct SID, and row S for any unknown user.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dasrec.core.corpus import Corpus
from dasrec.core.semantic_ids import SemanticIds, SidTable, UserMoments
from dasrec.ranking.features import FeatureConfig, FeatureSchema
from dasrec.ranking.features.encode import encode_table
from dasrec.ranking.features.fit import learned_levels

Int64s = npt.NDArray[np.int64]


class SideTables(NamedTuple):
    """Static inputs of one side (users, or items with the padding row)."""

    id: Tensor
    """(rows,) row of the id embedding, 0 = unknown."""
    popularity: Tensor
    """(rows,) log1p(training rows) over that of the most frequent item; 0 for users."""
    categories: Tensor
    """(rows, A) row in each category's embedding, 0 = missing or unknown."""
    numbers: Tensor
    """(rows, N) standardised numbers, NaN = missing."""
    sequences: Tensor
    """(rows, S, K) 1 + row in each sequence's embedding, 0 = no value."""
    dense: Tensor
    """(rows, E) frozen vectors side by side."""
    levels: Tensor
    """(rows, L) row in the level table: 1 + offset of the level + code."""
    prefixes: Tensor
    """(rows, L) row of each prefix in the hashed table."""
    bigrams: Tensor
    """(rows, L - 1) row of each pair of neighbouring codes in the hashed table."""
    hashes: Tensor
    """(rows, L) 31-bit hash of each prefix, for crosses."""
    keys: Tensor
    """(rows, L) exact number of each prefix: equal keys = equal prefixes; 0 = padding."""
    vectors: Tensor
    """(rows, D) quantized vectors of unit length (zero where there is none)."""


class FeatureTables(NamedTuple):
    """Both sides."""

    users: SideTables
    items: SideTables
    sid_of_moment: Tensor | None = None
    """(N + U + 1,) row of the user's semantic ID at each moment, and of an unknown user's; None =
    each user has one, in the row of the user."""


def build_tables(
    config: FeatureConfig, schema: FeatureSchema, corpus: Corpus, sids: SemanticIds | None
) -> FeatureTables:
    """Look everything up once, so that training only gathers rows.

    Raises:
        ValueError: tables or semantic IDs that are not of the schema's form.
    """
    _check_sids(schema, sids)
    users: SidTable | UserMoments | None = None
    moments = sids.user_moments if sids is not None and schema.user_moments else None
    if sids is not None and schema.user_levels:
        users = moments or sids.users
    items = sids.items if sids is not None and schema.item_levels else None
    user_parts = {
        "id": _id_rows(schema.user_vocabulary, corpus.num_users),
        "popularity": np.zeros(corpus.num_users, np.float32),
        **encode_table(schema, "user", corpus)._asdict(),
        **_sid_parts(users, schema.user_levels, config.hash_size, corpus.num_users, salt=1),
    }
    item_parts = {
        "id": _id_rows(schema.item_vocabulary, corpus.num_items),
        "popularity": _popularity(schema, corpus.num_items),
        **encode_table(schema, "item", corpus)._asdict(),
        **_sid_parts(items, schema.item_levels, config.hash_size, corpus.num_items, salt=2),
    }
    users_all = {k: np.concatenate([v, _unknown(k, v)]) for k, v in user_parts.items()}
    items_all = {k: np.concatenate([_unknown(k, v), v]) for k, v in item_parts.items()}
    return FeatureTables(
        SideTables(**{name: torch.from_numpy(part) for name, part in users_all.items()}),
        SideTables(**{name: torch.from_numpy(part) for name, part in items_all.items()}),
        None if moments is None else torch.from_numpy(_sid_rows(moments)),
    )


def prefix_keys(codes: Int64s, level_sizes: tuple[int, ...]) -> Int64s:
    """Number the prefixes of every length from 1, so that equal keys mean equal prefixes.

    Args:
        codes: (rows, L).
        level_sizes: codebook size of each level.

    Returns:
        (rows, L) keys, column l for the prefix of length l + 1.
    """
    keys = np.zeros(codes.shape, np.int64)
    prefix = np.zeros(len(codes), np.int64)
    for level, size in enumerate(level_sizes):
        # Renumbered at every level: no overflow, however many levels there are.
        _, prefix = np.unique(prefix * size + codes[:, level], return_inverse=True)
        keys[:, level] = prefix + 1
    return keys


def prefix_hashes(codes: Int64s, salt: int) -> Int64s:
    """(rows, L) 31-bit hash of every prefix; the same for the same codes in any catalogue."""
    state = np.full(len(codes), salt, np.uint64)
    hashes = np.zeros(codes.shape, np.int64)
    for level in range(codes.shape[1]):
        state = _mix(state + codes[:, level].astype(np.uint64) + np.uint64(1))
        hashes[:, level] = (state >> np.uint64(33)).astype(np.int64)
    return hashes


def bigram_hashes(codes: Int64s, salt: int) -> Int64s:
    """(rows, L - 1) 31-bit hash of every pair of neighbouring codes and its place."""
    hashes = np.zeros((len(codes), max(codes.shape[1] - 1, 0)), np.int64)
    for level in range(hashes.shape[1]):
        state = np.full(len(codes), (level + 1) * 1_000 + salt, np.uint64)
        for code in (codes[:, level], codes[:, level + 1]):
            state = _mix(state + code.astype(np.uint64) + np.uint64(1))
        hashes[:, level] = (state >> np.uint64(33)).astype(np.int64)
    return hashes


def hash_collisions(table: SideTables) -> list[float]:
    """Distinct prefixes per used row of the hashed table, for every prefix length; 1 = none."""
    return [
        len(np.unique(table.keys[:, level].numpy()))
        / len(np.unique(table.prefixes[:, level].numpy()))
        for level in range(table.keys.shape[1])
    ]


def cross_rows(user_hash: Tensor, item_hash: Tensor, hash_size: int) -> Tensor:
    """Row of a hashed (user prefix, item prefix) pair, 1..hash_size - 1; int64 wraps around."""
    mixed = user_hash * 0x9E3779B1 + item_hash * 0x85EBCA77
    mixed = (mixed ^ (mixed >> 29)) * 0x2545F4914F6CDD1D
    return ((mixed >> 32) & 0x7FFFFFFF) % (hash_size - 1) + 1


def _sid_rows(moments: UserMoments) -> Int64s:
    return np.append(moments.row, len(moments.codes)).astype(np.int64)


def _sid_parts(
    table: SidTable | UserMoments | None,
    level_sizes: tuple[int, ...],
    hash_size: int,
    size: int,
    salt: int,
) -> dict[str, npt.NDArray[Any]]:
    if table is None:
        nothing = np.zeros((size, 0), np.int64)
        names = ("levels", "prefixes", "bigrams", "hashes", "keys")
        return dict.fromkeys(names, nothing) | {"vectors": np.zeros((size, 0), np.float32)}
    codes = table.codes[:, : len(level_sizes)].astype(np.int64)
    offsets = np.cumsum([0, *level_sizes[:-1]])
    hashes = prefix_hashes(codes, salt)
    vectors = np.asarray(table.vectors, np.float32)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return {
        "levels": 1 + offsets + codes,
        "prefixes": hashes % (hash_size - 1) + 1,
        "bigrams": bigram_hashes(codes, salt) % (hash_size - 1) + 1,
        "hashes": hashes,
        "keys": prefix_keys(codes, level_sizes),
        "vectors": vectors / np.maximum(length, 1e-12),
    }


def _unknown(name: str, part: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The row of what nothing is known of."""
    row = np.zeros((1, *part.shape[1:]), part.dtype)
    if name == "numbers":
        row[:] = np.nan  # missing, not the mean
    return row


def _check_sids(schema: FeatureSchema, sids: SemanticIds | None) -> None:
    fitted = schema.sids
    if fitted is None:
        return
    if sids is None or not sids.extends(fitted.fingerprint):
        got = "none" if sids is None else f"{sids.fingerprint} (version {sids.version})"
        raise ValueError(
            f"ranking: the model was built for semantic IDs {fitted.fingerprint}, got {got}; give "
            "those or a later version of them"
        )
    for side, table, levels, dim in (
        ("item", sids.items, fitted.item_levels, fitted.item_dim),
        ("user", sids.users, fitted.user_levels, fitted.user_dim),
    ):
        found = learned_levels(table) if table is not None else ()
        width = table.vectors.shape[1] if table is not None else 0
        if levels and (found != levels or width != dim):
            raise ValueError(
                f"ranking: the model expects {side} codebooks of {levels} codes and vectors of "
                f"width {dim}, the semantic IDs have {found} and {width}; give the semantic IDs "
                "it was trained with"
            )
    if fitted.user_moments and sids.user_moments is None:
        raise ValueError(
            "ranking: the model expects the users' semantic IDs over time, which the semantic IDs "
            "given do not hold; assign them with assign.user_moments"
        )


def _popularity(schema: FeatureSchema, num_items: int) -> npt.NDArray[np.float32]:
    popularity = np.zeros(num_items, np.float32)
    if schema.item_counts:
        counts = np.log1p(np.array(schema.item_counts))
        popularity[np.array(schema.item_vocabulary)] = counts / counts.max()
    return popularity


def _id_rows(vocabulary: tuple[int, ...], size: int) -> Int64s:
    rows = np.zeros(size, np.int64)
    rows[np.array(vocabulary, np.int64)] = np.arange(1, len(vocabulary) + 1)
    return rows


def _mix(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """One round of splitmix64 (Steele et al., 2014)."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
