"""A small world for the generator: every user walks the catalogue in steps of seven."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from dasrec.core import (
    Corpus,
    SemanticIds,
    SidTable,
    build_config,
    load_corpus,
    load_sids,
    save_sids_payload,
    write_artifact,
)
from dasrec.core.corpus import save_corpus_payload
from dasrec.generative import PretrainConfig, SftConfig

NUM_USERS, NUM_ITEMS = 60, 48


class World(NamedTuple):
    corpus: Corpus
    sids: SemanticIds


def make_corpus(path: Path, *, last_items: int | None = None) -> Corpus:
    """Users' walks, leave-one-out; `last_items` overwrites every valid and test item."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(4, 12, NUM_USERS)
    user = np.repeat(np.arange(NUM_USERS), lengths)
    place = np.concatenate([np.arange(n) for n in lengths])
    item = (np.repeat(rng.integers(0, NUM_ITEMS, NUM_USERS), lengths) + 7 * place) % NUM_ITEMS
    split = np.zeros(len(user), np.int8)
    ends = np.cumsum(lengths)
    split[ends - 1], split[ends - 2] = 2, 1
    if last_items is not None:
        item = np.where(split > 0, last_items, item)

    def payload(scratch: Path) -> None:
        save_corpus_payload(
            scratch,
            user_idx=user.astype(np.int32),
            item_idx=item.astype(np.int32),
            timestamp=place * 100_000,
            split=split,
            users=pl.DataFrame({"user_id": [f"u{i}" for i in range(NUM_USERS)]}),
            items=pl.DataFrame(
                {
                    "item_id": [f"i{i}" for i in range(NUM_ITEMS)],
                    "title": [f"thing number {i}" for i in range(NUM_ITEMS)],
                }
            ),
            impressions=None,
        )

    write_artifact(path, "corpus", {}, {}, payload)
    return load_corpus(path)


def make_sids(path: Path, corpus: Corpus, *, user_side: bool = True) -> SemanticIds:
    """Unique item SIDs of three levels of four codes; random user SIDs of two levels."""
    number = np.arange(NUM_ITEMS)
    codes = np.stack([number // 16, number // 4 % 4, number % 4], axis=1).astype(np.uint16)
    items = SidTable(codes, (4, 4, 4), np.zeros((NUM_ITEMS, 2), np.float32), ())
    drawn = np.random.default_rng(1).integers(0, 3, (NUM_USERS, 2)).astype(np.uint16)
    users = SidTable(drawn, (3, 3), np.zeros((NUM_USERS, 2), np.float32), ())
    write_artifact(
        path,
        "semantic_ids",
        {"user_side": user_side},
        {"corpus": corpus.manifest},
        lambda scratch: save_sids_payload(scratch, items, users if user_side else None),
    )
    return load_sids(path, corpus.manifest)


OPTIONS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 96},
    "llama": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    },
    "gemma2": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "final_logit_softcapping": 1.0,
    },
    "granite": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "logits_scaling": 4.0,
    },
    "qwen3": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
    },
}


def scratch(architecture: str, **options: Any) -> dict[str, Any]:
    return {
        "scratch": {
            "architecture": architecture,
            "text_vocab_size": 280,
            "options": OPTIONS[architecture] | options,
        }
    }


def pretrain_config(architecture: str = "gpt2", **values: Any) -> PretrainConfig:
    trainer = {"learning_rate": 5e-3, "num_train_epochs": 3, "per_device_train_batch_size": 8}
    defaults = {"base": scratch(architecture), "validation_queries": 20, "trainer": trainer}
    return build_config(PretrainConfig, defaults | values, "pretrain")


def sft_config(**values: Any) -> SftConfig:
    trainer = {"learning_rate": 5e-3, "num_train_epochs": 2, "per_device_train_batch_size": 8}
    lora = {"r": 2, "lora_alpha": 4, "target_modules": "all-linear"}
    defaults = {"lora": lora, "validation_queries": 20, "trainer": trainer}
    return build_config(SftConfig, defaults | values, "sft")
