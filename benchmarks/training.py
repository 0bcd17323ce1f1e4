"""Items trained per second: packed rows of all positions against one example per target.

    python -m benchmarks.training --data runs/beauty

--data is a run directory with corpus/ and sids/NAME. Without it the data are random, of the size
of Amazon Beauty. Both sides train the same model with the same optimizer; of the peer's batch sizes
the fastest counts.
"""

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from benchmarks import prefix_trainer
from benchmarks.document import write_document
from benchmarks.random_world import random_world
from benchmarks.token_rows import token_rows
from peft.tuners.trainable_tokens import TrainableTokensLayer

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
from dasrec.generative import BaseModelConfig, SequenceBuilder, add_lora
from dasrec.generative.data.batches import BatchSampler, EpochLoader, RowReader, row_lengths
from dasrec.generative.data.packing import Collator
from dasrec.generative.data.sequences import sequence_dataset, training_windows
from dasrec.generative.model.base_model import build_base_model
from dasrec.generative.model.packed_attention import last_hidden, packed_batches
from dasrec.generative.model.split_tokens import SplitTokensLayer
from dasrec.generative.training.loss import SidLoss

BEAUTY = {"users": 22_363, "items": 12_101, "clicks": 153_776, "width": 1}
LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
PEER = "one padded example per target, loss over the vocabulary"
PEER_BATCHES = (16, 64)
"""Examples per step of the peer; on a CPU, logits of the vocabulary make larger ones slower."""
CHECKED_USERS = 40


def random_sids(folder: Path, corpus: Corpus) -> SemanticIds:
    """Three levels of 256 random codes on both sides."""
    rng = np.random.default_rng(0)
    tables = []
    for rows in (corpus.num_items, corpus.num_users):
        codes = rng.integers(0, 256, (rows, 3)).astype(np.uint16)
        tables.append(SidTable(codes, (256, 256, 256), np.zeros((rows, 1), np.float32), ()))
    write_artifact(
        folder, "semantic_ids", {}, {"corpus": corpus.manifest},
        lambda scratch: save_sids_payload(scratch, tables[0], tables[1]),
    )  # fmt: skip
    return load_sids(folder, corpus.manifest)


def base_config(width: int, layers: int) -> BaseModelConfig:
    """A GPT-2 with heads of 32 dimensions."""
    options = {
        "n_embd": width, "n_layer": layers, "n_head": width // 32, "n_positions": 128,
        "embd_pdrop": 0.0, "resid_pdrop": 0.0, "attn_pdrop": 0.0,
    }  # fmt: skip
    scratch = {"architecture": "gpt2", "text_vocab_size": 2000, "options": options}
    return build_config(BaseModelConfig, {"scratch": scratch}, "base")


def ours(
    model: Any, optimizer: torch.optim.Optimizer, builder: SequenceBuilder, loader: EpochLoader
) -> Iterator[int]:
    """Our steps without end; gives the items trained in each."""
    loss, levels = SidLoss(builder.vocabulary), builder.item_tokens.shape[1]
    while True:
        for batch in loader:
            batch = send_to_device(batch, model.device)
            labels = batch.pop("labels")
            if "cu_seq_lens_q" in batch:
                with packed_batches(model):
                    total, count = loss(model, last_hidden(model, batch), labels)
                    (total / count).backward()
            else:
                total, count = loss(model, last_hidden(model, batch), labels)
                (total / count).backward()
            optimizer.step()
            optimizer.zero_grad()
            yield count // levels


def our_loader(
    corpus: Corpus, builder: SequenceBuilder, batch_size: int, *, packed: bool
) -> EpochLoader:
    """Rows of all positions."""
    dataset = sequence_dataset(corpus, builder)
    lengths = [row_lengths(dataset.data)]
    batches = BatchSampler(lengths, [1.0], batch_size, 0, grouped=not packed)
    collator: Any = Collator(0, -1, -1, 1, packed=packed)
    return EpochLoader(RowReader(dataset), batch_sampler=batches, collate_fn=collator)


def training(
    corpus: Corpus, sids: SemanticIds, lora: bool, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Items per second of each way, in turns."""
    config, batch_size = base_config(args.width, args.layers), args.batch_size
    base, _, vocabulary = build_base_model(config, corpus, sids, seed=0)
    base.to(args.device)
    builder = SequenceBuilder(sids, vocabulary)
    examples = prefix_trainer.prefix_examples(corpus, builder)
    loaders = {
        name: our_loader(corpus, builder, batch_size, packed=name == "packed")
        for name in ("packed", "padded")
    }
    per_row = len(corpus.train_rows) / len(loaders["packed"].dataset)  # type: ignore[arg-type]
    loops: dict[str, Iterator[int]] = {}
    for name in (*loaders, *map(str, args.peer_batches)):
        model: Any = copy.deepcopy(base)
        if lora:
            model = add_lora(model, vocabulary, LORA)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-3)
        if name not in loaders:
            for layer in model.modules():
                if isinstance(layer, SplitTokensLayer):
                    layer.__class__ = TrainableTokensLayer  # peft as it comes
            loops[name] = prefix_trainer.train(model, optimizer, examples, int(name))
        else:
            loops[name] = ours(model, optimizer, builder, loaders[name])
    rates = measure(loops, args.runs, args.steps)
    peer, fastest = max(
        zip(args.peer_batches, list(rates.values())[2:], strict=True), key=itemgetter(1)
    )
    same, losses = same_loss(base, corpus, builder, examples)
    return [
        {
            "case": {
                "what": "LoRA and token rows" if lora else "all weights",
                "batching": name,
                "users": corpus.num_users,
                "items": corpus.num_items,
                "interactions": len(corpus.train_rows),
                "parameters": base.num_parameters(),
                "items_per_step": round(batch_size * per_row),
            },
            "ours": _rate(rates[name]),
            "peer": {"name": PEER, "items_per_step": peer, **_rate(fastest)},
            "ratio": round(rates[name] / fastest, 2),
            "same_result": same,
            "compared": f"summed loss over the level's codes of {CHECKED_USERS} users: {losses}",
        }
        for name in loaders
    ]  # fmt: skip


def measure(loops: dict[str, Iterator[int]], runs: int, steps: int) -> dict[str, float]:
    """Items per second of each loop: the median of runs in turns."""
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for loop in loops.values():
        next(loop)
    for _ in range(runs):
        for name, loop in loops.items():
            began = time.perf_counter()
            items = sum(next(loop) for _ in range(steps))
            if torch.accelerator.is_available():
                torch.accelerator.synchronize()
            rates[name].append(items / (time.perf_counter() - began))
    return {name: statistics.median(values) for name, values in rates.items()}


def same_loss(
    model: Any, corpus: Corpus, builder: SequenceBuilder, examples: list[prefix_trainer.Example]
) -> tuple[bool, list[float]]:
    """Whether both sides give the first users' items the same probability.

    Only users whose history is a single row: of the others, rows begin anew where examples look
    further back.
    """
    starts = corpus.train_sequences.starts
    short = np.flatnonzero(np.diff(starts) <= builder.prompt.max_history + 1)[:CHECKED_USERS]
    chosen = np.concatenate([np.arange(starts[u], starts[u + 1]) for u in short])
    theirs = prefix_trainer.level_loss(
        model, [examples[row] for row in chosen], builder.vocabulary.item_levels
    )
    dataset = sequence_dataset(corpus, builder)
    windows = training_windows(corpus, builder.prompt.max_history)
    rows = RowReader(dataset).__getitems__(np.searchsorted(windows.users, short).tolist())
    batch = send_to_device(Collator(0, -1, -1, 1, packed=True)(rows), model.device)
    labels = batch.pop("labels")
    with packed_batches(model), torch.no_grad():
        mine = float(SidLoss(builder.vocabulary)(model, last_hidden(model, batch), labels).total)
    return abs(mine - theirs) < 1e-4 * theirs, [round(mine, 2), round(theirs, 2)]


def _rate(items_per_second: float) -> dict[str, float]:
    return {
        "seconds": round(1000 / items_per_second, 4),  # of 1000 items
        "items_per_second": round(items_per_second),
    }


def main() -> None:
    """Measure and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="run directory with corpus/ and sids/")
    parser.add_argument("--sids", default="das", help="which of its SIDs")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/training.json"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="in each run")
    parser.add_argument("--batch-size", type=int, default=32, help="rows per step of ours")
    parser.add_argument(
        "--peer-batches",
        type=int,
        nargs="+",
        default=PEER_BATCHES,
        help="of which the fastest counts",
    )
    parser.add_argument("--width", type=int, default=128, help="of the model, a multiple of 32")
    parser.add_argument("--layers", type=int, default=4, help="of the model")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ...")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as scratch:
        if args.data is None:
            corpus, _ = random_world(Path(scratch), **BEAUTY)
            sids = random_sids(Path(scratch) / "sids", corpus)
        else:
            corpus = load_corpus(args.data / "corpus")
            sids = load_sids(args.data / "sids" / args.sids, corpus.manifest)
        rows = [row for lora in (False, True) for row in training(corpus, sids, lora, args)]
    if args.device == "cpu":
        rows += [row for tied in (True, False) for row in token_rows(tied, args.runs)]
    write_document(args.out, "training", rows, threads=args.threads)


if __name__ == "__main__":
    main()
