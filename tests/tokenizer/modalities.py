"""Further item modalities for the small world of conftest.py."""

import dataclasses

import numpy as np

from dasrec.core import Corpus, Embeddings


def with_modalities(world: tuple[Corpus, Embeddings], **widths: int) -> tuple[Corpus, Embeddings]:
    """The world, its items also seen through random projections of their (tanh) embeddings."""
    corpus, embeddings = world
    rng = np.random.default_rng(7)
    more = {
        name: np.tanh(embeddings.items @ rng.normal(size=(12, width))).astype(np.float32)
        for name, width in widths.items()
    }
    return corpus, dataclasses.replace(embeddings, more=more)
