"""A shop of six items and five users, small enough to write its rows by hand."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from dasrec.core import (
    Corpus,
    SemanticIds,
    SidTable,
    load_corpus,
    load_sids,
    save_sids_payload,
    write_artifact,
)
from dasrec.core.corpus import save_corpus_payload
from dasrec.generative import SequenceBuilder, add_sid_tokens
from dasrec.generative.data.prompts import PromptConfig
from dasrec.generative.data.sequences import sequence_builder
from dasrec.generative.model.text_tokenizer import train_tokenizer

MINUTE, HOUR, DAY = 60, 3_600, 86_400

# user, item, seconds, split (0 train, 1 valid, 2 test)
EVENTS = [
    (0, 0, 0, 0),
    (0, 1, 5 * MINUTE, 0),
    (0, 2, DAY, 0),
    (0, 3, DAY + HOUR, 1),
    (0, 4, 9 * DAY, 2),
    (1, 4, 0, 0),
    (1, 0, 30, 0),
    (1, 5, 2 * DAY, 1),
    (2, 3, 0, 0),
    (2, 1, HOUR, 1),
    (3, 2, 10, 0),
    (3, 3, 10, 0),
    (3, 2, DAY, 0),
    (3, 1, 2 * DAY, 2),
    (4, 5, 0, 0),
    (4, 4, HOUR, 0),
]

ITEMS = pl.DataFrame(
    {
        "item_id": [f"i{number}" for number in range(6)],
        "title": ["Rose soap", "Rose oil", "Mint comb", "Steel comb", "", "Rose cream"],
        "brand": ["Acme", "Acme", "Bolt", "Bolt", None, "Acme"],
        "categories": ["Bath", "Bath > Oils", "Hair", " hair|", None, "Bath"],
    }
)
USERS = pl.DataFrame(
    {
        "user_id": [f"u{number}" for number in range(5)],
        "gender": ["F", "M", None, "F", None],
        "age": [30, 41, None, 7, None],
    }
)


class Shop(NamedTuple):
    corpus: Corpus
    sids: SemanticIds

    def builder(self, **prompt: Any) -> tuple[SequenceBuilder, Any]:
        """A builder of a prompt format, and the text tokenizer."""
        config = PromptConfig(**prompt)
        tokenizer = train_tokenizer(300, self.corpus)
        vocabulary = add_sid_tokens(tokenizer, self.sids, has_time=config.time)
        builder = sequence_builder(config, self.corpus, self.sids, vocabulary, tokenizer)
        return builder, tokenizer


def make_shop(path: Path, *, spoil: bool = False, user_side: bool = True) -> Shop:
    """The shop; `spoil` changes the items and times of all valid and test events."""
    user, item, time, split = (np.array(column) for column in zip(*EVENTS, strict=True))
    if spoil:
        item = np.where(split > 0, (item + 2) % 6, item)
        time = np.where(split > 0, time + 77 * DAY, time)

    def corpus_payload(out: Path) -> None:
        save_corpus_payload(
            out,
            user_idx=user.astype(np.int32),
            item_idx=item.astype(np.int32),
            timestamp=time,
            split=split.astype(np.int8),
            users=USERS,
            items=ITEMS,
            impressions=None,
        )

    write_artifact(path / "corpus", "corpus", {}, {}, corpus_payload)
    corpus = load_corpus(path / "corpus")
    codes = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [2, 0], [0, 2]], np.uint16)
    items = SidTable(codes, (3, 3), np.zeros((6, 2), np.float32), ())
    users = SidTable(
        np.array([[0, 1], [1, 0], [1, 1], [0, 0], [2, 2]], np.uint16),
        (3, 3),
        np.zeros((5, 2), np.float32),
        (),
    )

    def sids_payload(out: Path) -> None:
        save_sids_payload(out, items, users if user_side else None)

    write_artifact(path / "sids", "semantic_ids", {}, {"corpus": corpus.manifest}, sids_payload)
    return Shop(corpus, load_sids(path / "sids", corpus.manifest))


def words(tokenizer: Any, tokens: Any) -> str:
    """Tokens written out, our names for the control tokens."""
    return str(tokenizer.decode([int(token) for token in tokens])).replace("<|das_", "<|")
