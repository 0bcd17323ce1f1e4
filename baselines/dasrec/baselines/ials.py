r"""iALS: weighted matrix factorisation of the training log (Hu, Koren and Volinsky 2008).

    min over X, Y of  sum_{u,i} c_ui (p_ui - x_u . y_i)^2 + lambda (|X|^2 + |Y|^2),
    p_ui = 1 and c_ui = alpha where user u has item i, p_ui = 0 and c_ui = 1 elsewhere

Solved by the `implicit` package (an extra). A query's user vector is solved from its history given
Y, so a test query reads the validation event as the other methods do.

Shape letters: B queries of a block, I items, D factors.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from dasrec.baselines.interactions import history_matrix, train_matrix
from dasrec.core import Corpus, Manifest, check_free, generator
from dasrec.core.catalogue_lists import Floats, ListsConfig, write_lists
from dasrec.core.corpus import Int64s


class IalsConfig(ListsConfig):
    """Implicit-feedback matrix factorisation."""

    factors: int = Field(256, ge=1)
    """D."""

    alpha: float = Field(30.0, gt=0)
    """Weight of an interaction; a missing one weighs 1."""

    regularization: float = Field(2.0, gt=0)
    """lambda."""

    iterations: int = Field(15, ge=1)
    """Alternations of users and items."""


def recommend_ials(
    config: IalsConfig, corpus: Corpus, out: Path, *, seed: int = 0, replace: bool = False
) -> Manifest:
    """Factorise the training log and rank the catalogue for validation and test queries.

    Args:
        config: factorisation and lists.
        corpus: item factors come from its training interactions; a query's user factors from all
            that the user had before.
        out: directory of the Recommendations artifact.
        seed: of the first factors.
        replace: swap an artifact that is already at `out`.

    Raises:
        ValueError: the package `implicit` is not installed.
    """
    check_free(Path(out), replace)
    began = time.perf_counter()
    model = _fitted(config, corpus, seed)

    def score(queries: Int64s) -> Floats:
        history_BI = history_matrix(corpus, queries)
        users_BD = model.recalculate_user(np.arange(len(queries)), history_BI)
        scores_BI: Floats = users_BD @ model.item_factors.T
        return scores_BI

    return write_lists(out, config, corpus, score, began=began, seed=seed, replace=replace)


def _fitted(config: IalsConfig, corpus: Corpus, seed: int) -> Any:
    from threadpoolctl import threadpool_limits

    try:
        from implicit.cpu.als import AlternatingLeastSquares
    except ModuleNotFoundError:
        raise ValueError(
            "baselines.ials: needs the package implicit; pip install 'dasrec[ials]', or leave ials "
            "out"
        ) from None
    with threadpool_limits(1, "blas"):  # its own threads share the rows; BLAS threads slow them
        model = AlternatingLeastSquares(
            factors=config.factors,
            regularization=config.regularization,
            alpha=config.alpha,
            iterations=config.iterations,
            random_state=generator(seed, "ials"),
        )
        model.fit(train_matrix(corpus), show_progress=False)
    return model
