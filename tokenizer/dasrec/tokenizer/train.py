"""Stage: (TokenizerConfig, Corpus, Embeddings) -> tokenizer artifact.

Payload: model.safetensors, config.json (configuration and table sizes), metrics.jsonl (every
loss term and the codebook usage, per epoch).
"""

import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.torch import load_file, save_file

from dasrec.core import (
    Corpus,
    Embeddings,
    Manifest,
    build_config,
    check_free,
    load_manifest,
    recipe_digest,
    seed_everything,
    work_dir,
    write_artifact,
)
from dasrec.core.training import fit
from dasrec.tokenizer.config import TokenizerConfig
from dasrec.tokenizer.model import Das
from dasrec.tokenizer.statistics import PopularityStatistics, popularity_statistics
from dasrec.tokenizer.trainer import Trainer


def train_tokenizer(
    config: TokenizerConfig,
    corpus: Corpus,
    embeddings: Embeddings,
    out: str | Path,
    *,
    seed: int = 0,
    replace: bool = False,
) -> Manifest:
    """Train DAS (or the part of it that `config` leaves on) and write a tokenizer artifact.

    Only training interactions are read. An interrupted run, started again with the same
    arguments, goes on after its last finished epoch and ends with the same bytes.

    Raises:
        FileExistsError: `out` exists and `replace` is false.
        ValueError: embeddings that do not fit the corpus, more codewords than users or items.
    """
    out = Path(out)
    check_free(out, replace)
    _check(config, corpus, embeddings)
    inputs = {"corpus": corpus.manifest, "embeddings": embeddings.manifest}
    fingerprints = {name: manifest.fingerprint for name, manifest in inputs.items()}
    work = work_dir(out, recipe_digest("tokenizer", config.as_json(), fingerprints, seed))

    seed_everything(seed, "tokenizer", "init")
    statistics = popularity_statistics(corpus) if config.uses_icdm else None
    model = Das(config, embeddings.items.shape[1], embeddings.users.shape[1], statistics)
    trainer = Trainer(model, corpus, embeddings, seed)
    result = fit(
        model,
        {"optimizer": trainer.optimizer},
        trainer.run_epoch,
        name="tokenizer",
        num_epochs=config.epochs,
        seed=seed,
        work=work,
    )

    def write_payload(path: Path) -> None:
        weights = {k: v.detach().contiguous() for k, v in model.state_dict().items()}
        save_file(weights, path / "model.safetensors")
        sizes = {
            "item_dim": embeddings.items.shape[1],
            "user_dim": embeddings.users.shape[1],
            "num_users": corpus.num_users,
            "num_items": corpus.num_items,
        }
        (path / "config.json").write_text(
            json.dumps({"tokenizer": config.as_json(), "sizes": sizes}, indent=2) + "\n"
        )
        shutil.copy(work / "metrics.jsonl", path / "metrics.jsonl")

    manifest = write_artifact(
        out,
        "tokenizer",
        config.as_json(),
        inputs,
        write_payload,
        seed=seed,
        metrics=result.best_metrics,
        replace=replace,
    )
    shutil.rmtree(work)
    return manifest


def load_tokenizer(path: str | Path) -> Das:
    """Open a tokenizer artifact as a module in eval mode."""
    path = Path(path)
    load_manifest(path, "tokenizer")
    stored = json.loads((path / "config.json").read_text())
    config = build_config(TokenizerConfig, stored["tokenizer"], f"{path}/config.json")
    weights = load_file(path / "model.safetensors")
    statistics = None
    if config.uses_icdm:
        statistics = PopularityStatistics(
            weights["icdm.items.statistics_NS"].numpy(),
            weights["icdm.users.statistics_NS"].numpy(),
            weights["icdm.log_q_I"].numpy(),
        )
    model = Das(config, stored["sizes"]["item_dim"], stored["sizes"]["user_dim"], statistics)
    model.load_state_dict(weights)
    return model.eval()


def _check(config: TokenizerConfig, corpus: Corpus, embeddings: Embeddings) -> None:
    sides = [("items", embeddings.items, corpus.num_items)]
    if config.user_side:
        sides.append(("users", embeddings.users, corpus.num_users))
    for side, vectors, rows in sides:
        if len(vectors) != rows:
            raise ValueError(
                f"embeddings.{side}: the corpus has {rows} {side}, got {len(vectors)} vectors; "
                "embed this corpus"
            )
        if not np.isfinite(vectors).all():
            raise ValueError(f"embeddings.{side}: expected finite values, got NaN or infinity")
        if max(config.level_sizes) > rows:
            raise ValueError(
                f"tokenizer.level_sizes: a level cannot have more codewords than there are "
                f"{side} ({rows}), got {max(config.level_sizes)}; choose smaller levels"
            )
    if config.uses_pairs and not len(corpus.train_rows):
        raise ValueError("tokenizer: the corpus has no training interactions, got 0 rows")
