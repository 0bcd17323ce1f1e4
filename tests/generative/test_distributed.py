"""Two CPU processes against one: the same loss curve, the same validation, one artifact."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.generative.world import (
    World,
    make_corpus,
    make_sids,
    pretrain_config,
    scratch,
    sft_config,
)
from tests.two_processes import in_two_processes

from dasrec.core import Manifest, load_corpus, load_manifest, load_sids
from dasrec.generative import pretrain, sft

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Could not find a config file:UserWarning"),
]

EXACT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
"""Dropout draws other numbers in two processes than in one."""


def train(world: World, out: Path, batch_size: int) -> None:
    """Both stages, packed and padded, LoRA and full, with and without accumulated batches."""
    trainer: dict[str, Any] = {
        "learning_rate": 5e-3,
        "num_train_epochs": 1,
        "per_device_train_batch_size": batch_size,
    }
    config = pretrain_config(base=scratch("gpt2", **EXACT), trainer=trainer)
    pretrain(config, world.corpus, world.sids, out / "base")
    accumulated = trainer | {
        "per_device_train_batch_size": batch_size // 2,
        "gradient_accumulation_steps": 2,
    }
    lora = sft_config(trainer=accumulated)
    sft(lora, out / "base", world.corpus, world.sids, out / "lora")
    full = sft_config(trainer=trainer, lora=None, batching="padded")
    sft(full, out / "base", world.corpus, world.sids, out / "full")


def work(rank: int, folder: Path) -> None:
    warnings.simplefilter("ignore")
    corpus = load_corpus(folder / "corpus")
    world = World(corpus, load_sids(folder / "sids", corpus.manifest))
    train(world, folder / "two", batch_size=4)


def curve(manifest: Manifest) -> list[dict[str, float]]:
    kept = ("loss", "grad_norm", "eval_ndcg@10", "eval_recall@10")
    steps = [{k: v for k, v in step.items() if k in kept} for step in manifest.metrics["log"]]
    return [step for step in steps if step]


def test_two_processes_train_what_one_trains(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus")
    world = World(corpus, make_sids(tmp_path / "sids", corpus))
    in_two_processes(work, tmp_path)
    train(world, tmp_path / "one", batch_size=8)

    for name, kind in (("base", "base_model"), ("lora", "generator"), ("full", "base_model")):
        one, two = (load_manifest(tmp_path / side / name, kind) for side in ("one", "two"))
        assert len(curve(one)) == len(curve(two)) == 2  # loss and validation
        for ours, theirs in zip(curve(two), curve(one), strict=True):
            assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-4), name
        assert one.metrics["best"] == pytest.approx(two.metrics["best"])
        folder = "adapter/adapter_" if name == "lora" else ""
        weights = [
            load_file(tmp_path / side / name / f"{folder}model.safetensors")
            for side in ("one", "two")
        ]
        torch.testing.assert_close(weights[1], weights[0], rtol=1e-2, atol=1e-3)
        assert set(one.files) == set(two.files)
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == ["base", "full", "lora"]
    assert json.loads((tmp_path / "two/lora/base.json").read_text()) == {"path": "../base"}
