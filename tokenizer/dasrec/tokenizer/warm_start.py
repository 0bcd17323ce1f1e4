"""Starting a tokenizer from the weights of an earlier one, perhaps of a smaller catalogue."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from dasrec.core import Corpus
from dasrec.tokenizer.objective import Objective


def warm_start_from(path: Path, objective: Objective, corpus: Corpus) -> None:
    """Copy the weights of the tokenizer at `path` into `objective`.

    Statistics of the corpus stay those of the new one. ID embeddings are matched by external id;
    users and items that are new keep their random start.

    Raises:
        ValueError: weights that `path` lacks, or that have another shape.
    """
    stored = load_file(path / "model.safetensors")
    wanted: dict[str, Tensor] = dict(objective.named_parameters())
    wanted |= {name: b for name, b in objective.named_buffers() if ".ema." in name}
    missing = [name for name in wanted if name not in stored]
    if missing:
        raise ValueError(
            f"warm_start: {path} has no weights '{missing[0]}' ({len(missing)} missing); start "
            "from a tokenizer of the same method with the same parts"
        )
    with torch.no_grad():
        for name, tensor in wanted.items():
            if name.endswith(".ids.weight"):
                side = "users" if ".users." in name else "items"
                new, old = _matched(path, side, corpus)
                tensor[new] = stored[name][old].to(tensor.device)
            elif tensor.shape != stored[name].shape:
                raise ValueError(
                    f"warm_start: '{name}' of {path} has shape {tuple(stored[name].shape)}, "
                    f"expected {tuple(tensor.shape)}; keep level sizes and widths as they were"
                )
            else:
                tensor.copy_(stored[name])


def _matched(path: Path, side: str, corpus: Corpus) -> tuple[Tensor, Tensor]:
    """Rows of `corpus` and of the stored table that have the same external id."""
    table = corpus.users["user_id"] if side == "users" else corpus.items["item_id"]
    known = np.load(path / f"{side}.ids.npy")
    _, new, old = np.intersect1d(
        table.cast(str).to_numpy().astype(np.str_), known, return_indices=True
    )
    return torch.from_numpy(new), torch.from_numpy(old)
