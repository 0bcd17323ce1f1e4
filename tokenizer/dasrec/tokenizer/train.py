"""Stage: (TokenizerConfig, Corpus, Embeddings) -> tokenizer artifact.

Payload: model.safetensors (`sides.*` gives out SIDs, the rest serves warm starts), config.json
(configuration and input widths), metrics.jsonl (every loss term and the codebook usage, per
epoch), users.ids.npy and items.ids.npy (external ids of the rows of ID embeddings).
"""

import json
import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

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
from dasrec.core.processes import processes
from dasrec.core.training import fit
from dasrec.tokenizer.methods import METHODS, TokenizerConfig
from dasrec.tokenizer.objective import Data, Objective, Sides, Sizes
from dasrec.tokenizer.trainer import Optimizing, Trainer
from dasrec.tokenizer.warm_start import warm_start_from


def train_tokenizer(
    config: TokenizerConfig,
    corpus: Corpus,
    embeddings: Embeddings,
    out: str | Path,
    *,
    seed: int = 0,
    replace: bool = False,
    warm_start: str | Path | None = None,
) -> Manifest:
    """Train any tokenizer method and write a tokenizer artifact.

    Only training interactions are read. An interrupted run, started again with the same
    arguments, goes on after its last finished epoch and ends with the same bytes. Under
    `accelerate launch` the processes share each batch's rows and end with the weights that one
    process would have, up to rounding.

    Args:
        config: of the method (`DasConfig`, `TigerConfig`, ...).
        corpus: training interactions.
        embeddings: of this corpus.
        out: directory to create.
        seed: of everything random.
        replace: swap an artifact that is already there.
        warm_start: a tokenizer artifact of the same method and sizes to start from; rows of ID
            embeddings are matched by external id. Its codebooks stay in use from the first step.

    Raises:
        FileExistsError: `out` exists and `replace` is false.
        ValueError: embeddings that do not fit the corpus, more codewords than users or items, a
            warm start from another kind of tokenizer or of a method without steps, a loss that
            diverges.
    """
    out, state = Path(out), processes()
    check_free(out, replace)
    seed_everything(seed, "tokenizer", "init")
    objective = build_objective(config, corpus, embeddings, state.device)
    inputs = {"corpus": corpus.manifest, "embeddings": embeddings.manifest}
    if warm_start is not None:
        if not objective.phases:
            raise ValueError(
                f"warm_start: '{config.method}' sets its codewords at once and would not use an "
                "earlier tokenizer's; leave warm_start out"
            )
        inputs["warm_start"] = load_manifest(warm_start, "tokenizer")
        warm_start_from(Path(warm_start), objective, corpus)
    fingerprints = {name: manifest.fingerprint for name, manifest in inputs.items()}
    recipe = recipe_digest("tokenizer", config.as_json(), fingerprints, seed)
    with state.main_process_first():  # it may have to empty the folder
        work = work_dir(out, recipe)
    metrics: dict[str, Any] = {}
    if objective.phases:
        trainer = Trainer(objective, cast(Optimizing, config), seed, warm=warm_start is not None)
        result = fit(
            objective,
            {"optimizer": trainer.optimizer},
            trainer.run_epoch,
            name="tokenizer",
            num_epochs=trainer.num_epochs,
            seed=seed,
            work=work,
            write=state.is_main_process,
        )
        metrics |= result.best_metrics
    metrics |= objective.finish(seed)
    state.wait_for_everyone()  # all have read what the main process now adds or removes
    if state.is_main_process:
        write_artifact(
            out,
            "tokenizer",
            config.as_json(),
            inputs,
            lambda path: _save(path, config, objective, work),
            seed=seed,
            metrics=metrics,
            replace=replace,
        )
        shutil.rmtree(work)
    state.wait_for_everyone()
    return load_manifest(out, "tokenizer")


def build_objective(
    config: TokenizerConfig,
    corpus: Corpus,
    embeddings: Embeddings,
    device: torch.device | str = "cpu",
) -> Objective:
    """The untrained method on its data.

    Raises:
        ValueError: see `train_tokenizer`.
    """
    names = item_modalities(config, embeddings)
    columns = {name: embeddings.modalities[name] for name in names}
    sizes = Sizes({n: x.shape[1] for n, x in columns.items()}, embeddings.users.shape[1])
    method = METHODS[config.method]
    sides = method.sides(config, sizes)
    _check(sides, corpus, embeddings)
    data = Data(
        corpus,
        sizes,
        item_matrix(config, embeddings).to(device),
        torch.from_numpy(np.array(embeddings.users, np.float32)).to(device),
        dict(embeddings.modalities),
    )
    return method.objective(config, sides, data).to(device)


def item_modalities(config: TokenizerConfig, embeddings: Embeddings) -> tuple[str, ...]:
    """Names of the item modalities that a tokenizer reads.

    Raises:
        ValueError: a name that the embeddings do not have.
    """
    names = config.modalities or (next(iter(embeddings.modalities)),)
    for name in names:
        if name not in embeddings.modalities:
            raise ValueError(
                f"tokenizer.modalities: the embeddings have no item modality '{name}' "
                f"({', '.join(embeddings.modalities)}); add it to embed.more"
            )
    return names


def item_matrix(config: TokenizerConfig, embeddings: Embeddings) -> Tensor:
    """(I, X) float32: the modalities that a tokenizer reads, side by side."""
    names = item_modalities(config, embeddings)
    columns = [np.asarray(embeddings.modalities[name], np.float32) for name in names]
    return torch.from_numpy(np.concatenate(columns, 1))


def load_tokenizer(path: str | Path) -> tuple[TokenizerConfig, Sides]:
    """Open a tokenizer artifact: its config, and what gives out SIDs, in eval mode."""
    path = Path(path)
    load_manifest(path, "tokenizer")
    stored = json.loads((path / "config.json").read_text())
    method = METHODS[stored["tokenizer"]["method"]]
    config: TokenizerConfig = build_config(
        method.config, stored["tokenizer"], f"{path}/config.json"
    )
    sides = method.sides(config, stored_sizes(path))
    weights = load_file(path / "model.safetensors")
    prefix = "sides."
    sides.load_state_dict(
        {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    )
    return config, sides.eval()


def stored_sizes(path: str | Path) -> Sizes:
    """Widths of the inputs of the tokenizer at `path`."""
    return Sizes(**json.loads((Path(path) / "config.json").read_text())["sizes"])


def _save(path: Path, config: TokenizerConfig, objective: Objective, work: Path) -> None:
    weights: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in objective.state_dict().items():
        if value.numel() and value.data_ptr() in seen:  # a module that has two names
            continue
        seen.add(value.data_ptr())
        weights[name] = value.detach().cpu().contiguous()
    save_file(weights, path / "model.safetensors")
    stored = {"tokenizer": config.as_json(), "sizes": objective.data.sizes._asdict()}
    (path / "config.json").write_text(json.dumps(stored, indent=2) + "\n")
    corpus = objective.data.corpus
    np.save(path / "items.ids.npy", corpus.items["item_id"].cast(str).to_numpy().astype(np.str_))
    np.save(path / "users.ids.npy", corpus.users["user_id"].cast(str).to_numpy().astype(np.str_))
    log = work / "metrics.jsonl"
    if log.exists():
        shutil.copy(log, path / "metrics.jsonl")


def _check(sides: Sides, corpus: Corpus, embeddings: Embeddings) -> None:
    tables = [(f"items.{n}", x, corpus.num_items) for n, x in embeddings.modalities.items()]
    tables.append(("users", embeddings.users, corpus.num_users))
    for name, vectors, rows in tables:
        side = name.split(".")[0]
        if len(vectors) != rows:
            raise ValueError(
                f"embeddings.{name}: the corpus has {rows} {side}, got {len(vectors)} vectors; "
                "embed this corpus"
            )
        if not np.isfinite(vectors).all():
            raise ValueError(f"embeddings.{name}: expected finite values, got NaN or infinity")
    largest = max((len(book) for book in sides.items.codebooks), default=0)
    for side, rows in (("items", corpus.num_items), ("users", corpus.num_users)):
        if largest > rows and (side == "items" or sides.users is not None):
            raise ValueError(
                f"tokenizer.level_sizes: a level cannot have more codewords than there are "
                f"{side} ({rows}), got {largest}; choose smaller levels"
            )
    if not len(corpus.train_rows):
        raise ValueError("tokenizer: the corpus has no training interactions, got 0 rows")
