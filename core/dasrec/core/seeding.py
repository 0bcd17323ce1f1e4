"""One seed, named generators: no stage depends on how many numbers another one drew."""

import hashlib
import random

import numpy as np


def derive_seed(seed: int, *names: str | int) -> int:
    """A 32-bit seed for the purpose `names`, e.g. `derive_seed(0, "tokenizer", "epoch", 3)`."""
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """A NumPy generator for the purpose `names`."""
    return np.random.default_rng(derive_seed(seed, *names))


def seed_everything(seed: int, *names: str | int) -> None:
    """Seed the global states of random, NumPy and torch (dropout and initialisers use them)."""
    import torch

    value = derive_seed(seed, *names)
    random.seed(value)
    np.random.seed(value)  # noqa: NPY002  libraries draw from the global state
    torch.manual_seed(value)
