"""User and item vectors of the collaborative model (ICDM) that a DAS tokenizer was trained with.

Shape letters: U users, I items, D factor dimension.
"""

import json
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from dasrec.core import Corpus, Manifest, build_config, load_manifest
from dasrec.tokenizer.icdm import Factors, Icdm, Tower
from dasrec.tokenizer.methods.das import DasConfig
from dasrec.tokenizer.statistics import popularity_statistics

BLOCK = 65_536
"""Rows computed at a time; never changes a result."""

PREFIX = "icdm."


class CollaborativeVectors(NamedTuple):
    """Of all users and items of a corpus, of unit length."""

    users_UD: npt.NDArray[np.float32]
    items_ID: npt.NDArray[np.float32]
    manifest: Manifest
    """Of the tokenizer."""


def collaborative_vectors(
    path: str | Path, corpus: Corpus, vectors: Literal["true", "fused"] = "true"
) -> CollaborativeVectors:
    """What a DAS tokenizer learned from the training clicks.

    Args:
        path: a tokenizer artifact.
        corpus: what it was trained on.
        vectors: `true`: the vectors that SIDs are aligned to, from which popularity was split off
            (the undivided ones where `icdm.variant` is none); `fused`: with popularity.

    Raises:
        ValueError: a tokenizer of another corpus, or one without a collaborative model.
    """
    path = Path(path)
    manifest = load_manifest(path, "tokenizer", {"corpus": corpus.manifest})
    stored = json.loads((path / "config.json").read_text())["tokenizer"]
    if stored["method"] != "das":
        raise ValueError(
            f"{path}: tokenizers of method '{stored['method']}' have no collaborative model; give "
            "one of method das"
        )
    config = build_config(DasConfig, stored, f"{path}/config.json")
    if not config.uses_icdm:
        raise ValueError(
            f"{path}: this tokenizer was trained without a collaborative model (alpha, beta or its "
            "schedule leave it out); give one that has it"
        )
    icdm = Icdm(config.icdm, popularity_statistics(corpus), config.code_dim)
    weights = load_file(path / "model.safetensors")
    icdm.load_state_dict(
        {k.removeprefix(PREFIX): v for k, v in weights.items() if k.startswith(PREFIX)}
    )
    icdm.eval()

    def chosen(factors: Factors) -> Tensor:
        return icdm.target(factors) if vectors == "true" else factors.fused_BD

    def rows(tower: Tower, number: int) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            blocks = [chosen(tower(ids)) for ids in torch.arange(number).split(BLOCK)]
            return F.normalize(torch.cat(blocks), dim=1).numpy()

    return CollaborativeVectors(
        rows(icdm.users, corpus.num_users), rows(icdm.items, corpus.num_items), manifest
    )
