"""What a served generator is looked up in: its tokens, its items and, if asked for, its users."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from dasrec.core import Corpus, SemanticIds
from dasrec.core.texts import user_texts
from dasrec.generative.data.prompts import PromptConfig
from dasrec.generative.model.vocabulary import SidVocabulary

VOCABULARY = "sid_vocabulary.json"
ITEMS = "items.parquet"
ITEM_IDS = "item_ids.json"
USERS = "users.parquet"

Levels = tuple[tuple[int, ...], ...]


def write_vocabulary(
    directory: Path, vocabulary: SidVocabulary, sids: SemanticIds, tokenizer: Any
) -> None:
    """Write sid_vocabulary.json: every SID token with its side, level, code and vocabulary id.

    `time` lists the tokens of the time buckets and, last, of an unknown gap.
    """
    tokens: dict[str, dict[str, Any]] = {}
    for side, levels in (("item", vocabulary.item_levels), ("user", vocabulary.user_levels)):
        for level, ids in enumerate(levels):
            for code, name in enumerate(tokenizer.convert_ids_to_tokens(list(ids))):
                tokens[name] = {"side": side, "level": level, "code": code, "id": ids[code]}

    def named(token: int) -> dict[str, Any]:
        return {"token": tokenizer.convert_ids_to_tokens(token), "id": token}

    values = {
        "sids_fingerprint": sids.fingerprint,
        "sids_version": sids.version,
        "control": {name: named(token) for name, token in vocabulary.control.items()},
        "time": [named(token) for token in vocabulary.time_tokens],
        "tokens": tokens,
    }
    (directory / VOCABULARY).write_text(json.dumps(values, indent=1) + "\n")


def write_items(
    directory: Path,
    vocabulary: SidVocabulary,
    corpus: Corpus,
    sids: SemanticIds,
    tokenizer: Any,
) -> None:
    """Write items.parquet, and item_ids.json for readers without a Parquet library.

    Row i of both is item i of trie.safetensors.
    """
    table = corpus.items.select(name for name in ("item_id", "title") if name in corpus.items)
    codes = np.asarray(sids.items.codes)
    table = table.with_columns(_sid_columns(codes, vocabulary.item_levels, tokenizer))
    table.write_parquet(directory / ITEMS)
    (directory / ITEM_IDS).write_text(json.dumps(corpus.items["item_id"].to_list()) + "\n")


def write_users(
    directory: Path,
    vocabulary: SidVocabulary,
    corpus: Corpus,
    sids: SemanticIds,
    tokenizer: Any,
    prompt: PromptConfig,
) -> None:
    """Write users.parquet: the SID of every user of the log, and its context in words if used.

    Raises:
        ValueError: the generator knows no user SIDs.
    """
    if sids.users is None or not vocabulary.user_levels:
        raise ValueError(
            "users: these semantic IDs have no user side; export without the table of users"
        )
    codes = np.asarray(sids.users.codes)
    columns = _sid_columns(codes, vocabulary.user_levels, tokenizer)
    if prompt.context:
        columns.append(user_texts(corpus, prompt.context, max_history=0).alias("context"))
    corpus.users.select("user_id").with_columns(columns).write_parquet(directory / USERS)


def _sid_columns(codes: npt.NDArray[Any], levels: Levels, tokenizer: Any) -> list[pl.Series]:
    """Of (rows, L) codes: `sid` as 3-1-2, `sid_tokens` as text for the model, `token_ids`."""
    columns = range(codes.shape[1])
    numbers = [pl.Series(str(n), codes[:, n].astype(np.int64)) for n in columns]
    names = [
        pl.Series(str(n), tokenizer.convert_ids_to_tokens(list(levels[n]))).gather(numbers[n])
        for n in columns
    ]
    ids = np.stack([np.array(levels[n], np.int32)[codes[:, n]] for n in columns], axis=1)
    return [
        pl.DataFrame(numbers).select(sid=pl.concat_str(pl.all(), separator="-"))["sid"],
        pl.DataFrame(names).select(sid_tokens=pl.concat_str(pl.all()))["sid_tokens"],
        pl.Series("token_ids", ids).cast(pl.List(pl.Int32)),
    ]
