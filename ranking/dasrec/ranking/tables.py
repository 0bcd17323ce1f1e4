"""What is known of every user and item, as lookup tables of embedding rows.

Shape letters: U users, I items, A attributes, L semantic-ID levels, D vector width.
Item tables have I + 1 rows: row 0 is padding, item_idx i is row i + 1.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dasrec.core.corpus import Corpus
from dasrec.core.semantic_ids import SemanticIds, SidTable
from dasrec.ranking.features import FeatureConfig, FeatureSchema, attribute_rows

Int64s = npt.NDArray[np.int64]


class SideTables(NamedTuple):
    """Static inputs of one side (users, or items with the padding row)."""

    id: Tensor
    """(rows,) row of the id embedding, 0 = unknown."""
    attributes: Tensor
    """(rows, A) row in each attribute's table, 0 = missing."""
    levels: Tensor
    """(rows, L) row in the level table: 1 + offset of the level + code."""
    prefixes: Tensor
    """(rows, L) row of each prefix in the hashed table."""
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


def build_tables(
    config: FeatureConfig, schema: FeatureSchema, corpus: Corpus, sids: SemanticIds | None
) -> FeatureTables:
    """Look everything up once, so that training only gathers rows."""
    users = sids.users if sids is not None and schema.user_levels else None
    items = sids.items if sids is not None and schema.item_levels else None
    user_parts = _side(
        _id_rows(schema.user_vocabulary, corpus.num_users),
        attribute_rows(corpus.users, schema.user_attributes),
        users,
        schema.user_levels,
        config.hash_size,
        salt=1,
    )
    item_parts = _side(
        _id_rows(schema.item_vocabulary, corpus.num_items),
        attribute_rows(corpus.items, schema.item_attributes),
        items,
        schema.item_levels,
        config.hash_size,
        salt=2,
    )
    padded = [np.concatenate([np.zeros_like(part[:1]), part]) for part in item_parts]
    return FeatureTables(
        SideTables(*(torch.from_numpy(part) for part in user_parts)),
        SideTables(*(torch.from_numpy(part) for part in padded)),
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


def _side(
    ids: Int64s,
    attributes: Int64s,
    table: SidTable | None,
    level_sizes: tuple[int, ...],
    hash_size: int,
    salt: int,
) -> list[npt.NDArray[np.generic]]:
    if table is None:
        nothing = np.zeros((len(ids), 0), np.int64)
        vectors = np.zeros((len(ids), 0), np.float32)
        return [ids, attributes, nothing, nothing, nothing, nothing, vectors]
    codes = table.codes[:, : len(level_sizes)].astype(np.int64)
    offsets = np.cumsum([0, *level_sizes[:-1]])
    hashes = prefix_hashes(codes, salt)
    vectors = np.asarray(table.vectors, np.float32)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return [
        ids,
        attributes,
        1 + offsets + codes,
        hashes % (hash_size - 1) + 1,
        hashes,
        prefix_keys(codes, level_sizes),
        vectors / np.maximum(length, 1e-12),
    ]


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
