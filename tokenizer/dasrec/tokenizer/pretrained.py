"""The tokenizer as one object over arrays: fit, assign, decode, save_pretrained, from_pretrained.

What the stages `train_tokenizer` and `assign` write, without a run directory around it.
Shape letters: I items, U users, C clicks, N rows, X input width, L levels, D code dimension.
"""

import dataclasses
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from dasrec.core import (
    Corpus,
    Embeddings,
    SemanticIds,
    SidTable,
    check_free,
    load_corpus,
    load_embeddings,
    load_manifest,
    load_sids,
    write_artifact,
)
from dasrec.core.corpus import save_corpus_payload
from dasrec.tokenizer.assign import assign
from dasrec.tokenizer.lookup import SidLookup
from dasrec.tokenizer.methods import TokenizerConfig
from dasrec.tokenizer.objective import Side
from dasrec.tokenizer.policies import AssignConfig
from dasrec.tokenizer.train import load_tokenizer, stored_sizes, train_tokenizer

Floats = npt.NDArray[np.float32]
Arrays = npt.NDArray[np.floating[Any]]
Codes = npt.NDArray[np.uint16]
SideName = Literal["items", "users"]


class Assigned(NamedTuple):
    """SIDs of content, before any collision policy."""

    codes: Codes
    """(N, L), the learned levels."""
    vectors: Floats
    """(N, D) quantized embeddings z."""


class SidTokenizer:
    """A trained tokenizer and the SIDs of the catalogue it was trained on.

    Example:
        >>> tokenizer = SidTokenizer.fit(
        ...     DasConfig(), items=item_vectors, users=user_vectors, clicks=clicks, item_ids=skus
        ... )  # doctest: +SKIP
        >>> tokenizer.sids.items.codes  # (I, L) uint16, one row per item  # doctest: +SKIP
        >>> tokenizer.decode([12, 200])  # every item under this prefix  # doctest: +SKIP
        >>> tokenizer.assign(items=new_vectors).codes  # (N, L) of unseen items  # doctest: +SKIP
        >>> tokenizer.save_pretrained("my_tokenizer")  # doctest: +SKIP
    """

    def __init__(self, tokenizer: str | Path, sids: str | Path) -> None:
        """Open a tokenizer artifact and a SemanticIds artifact made with it.

        Raises:
            ValueError: the SIDs were made with another tokenizer.
        """
        self._paths = {"tokenizer": Path(tokenizer), "sids": Path(sids)}
        self.config, self.sides = load_tokenizer(tokenizer)
        self._sizes = stored_sizes(tokenizer)
        self.sids: SemanticIds = _in_memory(load_sids(sids))
        given = load_manifest(tokenizer, "tokenizer").fingerprint
        if self.sids.manifest.inputs["tokenizer"] != given:
            raise ValueError(f"{sids}: was not made with the tokenizer at {tokenizer}")

    @classmethod
    def fit(
        cls,
        config: TokenizerConfig,
        items: Arrays | Mapping[str, Arrays],
        clicks: npt.NDArray[np.integer],
        *,
        users: Arrays | None = None,
        item_ids: Sequence[str] | None = None,
        user_ids: Sequence[str] | None = None,
        assign_config: AssignConfig | None = None,
        seed: int = 0,
    ) -> Self:
        """Train a tokenizer and give the catalogue its SIDs.

        Args:
            config: of any method (`DasConfig`, `TigerConfig`, ...).
            items: (I, X) embeddings, or several modalities by name, the primary one first.
            clicks: (C, 2) integers, (row of `users`, row of `items`), every user's in order of
                time. All of them are trained on: leave out what you evaluate on.
            users: (U, X') embeddings; by default the mean of the (first modality's) embeddings
                of the items that a user clicked.
            item_ids: external ids of the rows of `items`; row numbers by default.
            user_ids: external ids of users.
            assign_config: the collision policy.
            seed: of everything random.

        Raises:
            ValueError: arrays that do not fit each other or the config; the message names them.
        """
        matrices = dict(items) if isinstance(items, Mapping) else {"text": items}
        first = next(iter(matrices.values()))
        clicks = _checked(clicks, matrices, users)
        num_users = len(users) if users is not None else int(clicks[:, 0].max()) + 1
        if users is None:
            users = _click_means(clicks, np.asarray(first, np.float32), num_users)
        path = Path(tempfile.mkdtemp(prefix="dasrec-"))
        try:
            tables = {
                "user_id": _ids("user_ids", user_ids, num_users),
                "item_id": _ids("item_ids", item_ids, len(first)),
            }
            corpus, embeddings = _artifacts(path, matrices, users, clicks, tables)
            train_tokenizer(config, corpus, embeddings, path / "tokenizer", seed=seed)
            policy = assign_config or AssignConfig()
            assign(policy, path / "tokenizer", corpus, embeddings, path / "sids", seed=seed)
            fitted = cls(path / "tokenizer", path / "sids")
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise
        weakref.finalize(fitted, shutil.rmtree, path, ignore_errors=True)
        return fitted

    def assign(
        self, items: Arrays | Mapping[str, Arrays] | None = None, *, users: Arrays | None = None
    ) -> Assigned:
        """SIDs of any content, seen in training or not; the published table stays as it is.

        Items of one SID are not told apart here: `dasrec.tokenizer.assign` with `published`
        appends to a table under a collision policy.

        Args:
            items: (N, X) embeddings from the encoder of the training embeddings, or all the
                modalities that the tokenizer reads, by name. Or else
            users: (N, X') embeddings of users.

        Raises:
            ValueError: neither or both are given, no user side, or another width.
        """
        if (items is None) == (users is None):
            raise ValueError("assign: give either items or users")
        if users is not None:
            if self.sides.users is None:
                raise ValueError("assign: this tokenizer has no user side")
            return self._assign("users", self.sides.users, np.asarray(users, np.float32))
        assert items is not None
        if isinstance(items, Mapping):
            missing = [name for name in self._sizes.items if name not in items]
            if missing:
                raise ValueError(f"assign: items lack the modality '{missing[0]}'")
            chosen = [items[name] for name in self._sizes.items]
        else:
            chosen = [items]
        matrix = np.concatenate([np.asarray(x, np.float32) for x in chosen], 1)
        return self._assign("items", self.sides.items, matrix)

    def decode(
        self, prefix: Sequence[int] | npt.NDArray[np.integer], side: SideName = "items"
    ) -> list[str]:
        """External ids of all items (users) whose SID starts with `prefix`.

        A whole SID gives its item, or its items where the collision policy shares SIDs; nothing
        found is an empty list.

        Args:
            prefix: 0 to L codes.
            side: whose SIDs.

        Raises:
            ValueError: more codes than the SIDs have, or no user side.
        """
        table = self._table(side)
        assert table.ids is not None
        found: list[str] = table.ids.gather(self._lookups[side].rows(list(prefix))).to_list()
        return found

    def save_pretrained(self, path: str | Path, *, replace: bool = False) -> None:
        """Write a directory that `from_pretrained` opens.

        Raises:
            FileExistsError: `path` exists and `replace` is false.
        """
        path = Path(path)
        check_free(path, replace)
        scratch = path.with_name(f".{path.name}.tmp")
        shutil.rmtree(scratch, ignore_errors=True)
        for name, source in self._paths.items():
            shutil.copytree(source, scratch / name)
        if path.exists():
            shutil.rmtree(path)
        scratch.rename(path)

    @classmethod
    def from_pretrained(cls, path: str | Path) -> Self:
        """Open what `save_pretrained` wrote.

        Raises:
            FileNotFoundError: no such directory.
            ValueError: not a saved tokenizer.
        """
        return cls(Path(path) / "tokenizer", Path(path) / "sids")

    @cached_property
    def _lookups(self) -> dict[str, SidLookup]:
        tables = {"items": self.sids.items, "users": self.sids.users}
        return {name: SidLookup(t.codes) for name, t in tables.items() if t is not None}

    def _table(self, side: SideName) -> SidTable:
        table = self.sids.items if side == "items" else self.sids.users
        if table is None:
            raise ValueError("decode: this tokenizer has no user side")
        return table

    def _assign(self, name: str, side: Side, x_NX: Floats) -> Assigned:
        width = self._sizes.users if name == "users" else sum(self._sizes.item_widths)
        if x_NX.ndim != 2 or x_NX.shape[1] != width:
            raise ValueError(f"assign: {name} must be (N, {width}), got shape {x_NX.shape}")
        if not np.isfinite(x_NX).all():
            raise ValueError(f"assign: {name} hold values that are not finite")
        encoded = side.quantize(torch.from_numpy(np.ascontiguousarray(x_NX)))
        return Assigned(encoded.codes_NL.numpy().astype(np.uint16), encoded.z_ND.numpy())


def _in_memory(sids: SemanticIds) -> SemanticIds:
    def copy(table: SidTable | None) -> Any:
        if table is None:
            return None
        return dataclasses.replace(
            table, codes=np.array(table.codes), vectors=np.array(table.vectors)
        )

    return dataclasses.replace(sids, items=copy(sids.items), users=copy(sids.users))


def _checked(
    clicks: npt.NDArray[np.integer], items: Mapping[str, Arrays], users: Arrays | None
) -> npt.NDArray[np.int64]:
    named = items if users is None else {**items, "users": users}
    for name, matrix in named.items():
        if np.ndim(matrix) != 2:
            raise ValueError(f"fit: {name} must be a matrix, got shape {np.shape(matrix)}")
    sizes = {name: len(matrix) for name, matrix in items.items()}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"fit: the modalities of items have different lengths: {sizes}")
    array = np.asarray(clicks)
    if array.ndim != 2 or array.shape[1] != 2 or array.dtype.kind not in "iu" or not len(array):
        raise ValueError(
            f"fit: clicks must be (C, 2) integers (user row, item row), got {array.dtype} "
            f"of shape {array.shape}"
        )
    limits = (None if users is None else len(users), next(iter(sizes.values())))
    for column, limit, name in zip(array.T, limits, ("users", "items"), strict=True):
        if column.min() < 0 or (limit is not None and column.max() >= limit):
            bad = int(np.flatnonzero((column < 0) | (column >= (limit or column.max() + 1)))[0])
            raise ValueError(
                f"fit: clicks row {bad}: {name} has {limit} rows, got row number {column[bad]}"
            )
    return array.astype(np.int64)


def _click_means(clicks: npt.NDArray[np.int64], items: Floats, num_users: int) -> Floats:
    total = np.zeros((num_users, items.shape[1]), np.float32)
    np.add.at(total, clicks[:, 0], items[clicks[:, 1]])
    count = np.bincount(clicks[:, 0], minlength=num_users)
    return np.asarray(total / np.maximum(count, 1)[:, None], np.float32)


def _ids(name: str, ids: Sequence[str] | None, rows: int) -> pl.Series:
    series = pl.Series([str(row) for row in range(rows)] if ids is None else [*map(str, ids)])
    if len(series) != rows or series.n_unique() != rows:
        raise ValueError(
            f"fit: {name} must be {rows} different ids, got {len(series)} "
            f"({series.n_unique()} different)"
        )
    return series


def _artifacts(
    path: Path,
    items: Mapping[str, Arrays],
    users: Arrays,
    clicks: npt.NDArray[np.int64],
    ids: Mapping[str, pl.Series],
) -> tuple[Corpus, Embeddings]:
    order = np.argsort(clicks[:, 0], kind="stable")
    place = np.arange(len(clicks), dtype=np.int64)

    def corpus_payload(out: Path) -> None:
        save_corpus_payload(
            out,
            user_idx=clicks[order, 0].astype(np.int32),
            item_idx=clicks[order, 1].astype(np.int32),
            timestamp=place[order],
            split=np.zeros(len(clicks), np.int8),
            users=pl.DataFrame({"user_id": ids["user_id"]}),
            items=pl.DataFrame({"item_id": ids["item_id"]}),
            impressions=None,
        )

    write_artifact(path / "corpus", "corpus", {}, {}, corpus_payload)
    corpus = load_corpus(path / "corpus")
    first, *more = items

    def embeddings_payload(out: Path) -> None:
        np.save(out / "items.npy", np.asarray(items[first], np.float32))
        np.save(out / "users.npy", np.asarray(users, np.float32))
        for name in more:
            np.save(out / f"items.{name}.npy", np.asarray(items[name], np.float32))

    config = {"modality": first, "more": {name: {} for name in more}}
    inputs = {"corpus": corpus.manifest}
    write_artifact(path / "embeddings", "embeddings", config, inputs, embeddings_payload)
    return corpus, load_embeddings(path / "embeddings", corpus)
