"""The figures of a set of SIDs."""

from collections.abc import Mapping

import numpy as np

from dasrec.core import Corpus, Embeddings, SidTable
from dasrec.tokenizer.report.behaviour import alignment_recall, popularity_r2
from dasrec.tokenizer.report.catalogue import item_categories
from dasrec.tokenizer.report.counts import Codes, learned_codes, shares_sid, table_figures
from dasrec.tokenizer.report.purity import (
    category_purity,
    copurchase,
    neighbour_purity,
    prefix_groups,
)


def sid_report(
    items: SidTable,
    users: SidTable | None,
    corpus: Corpus,
    embeddings: Embeddings,
    *,
    before: Codes | None = None,
    extra: Mapping[str, float] = {},
) -> dict[str, float]:
    """Figures of a set of SIDs by name, `item/` or `user/` first; `glossary` says what they mean.

    Levels l count from 0 (`usage_l`), prefixes p from 1 (`purity_p`). A figure that the data
    cannot give (no category column, no test targets, no user side) is not there.

    Args:
        items: item SIDs as given out.
        users: user SIDs, if the tokenizer has that side.
        corpus: training interactions for popularity and pairs; validation and test targets only
            to measure on.
        embeddings: what the SIDs were made from.
        before: (I, L) item codes before the collision policy; None where it changed none of the
            learned levels.
        extra: figures that only the tokenizer can give, e.g. `item/reconstruction_error`.
    """
    before = learned_codes(items) if before is None else before
    prefixes = prefix_groups(learned_codes(items))
    found = table_figures(items, before)
    targets = corpus.item_idx[corpus.queries("test")]
    if len(targets):
        found["test_targets_colliding_before"] = float(shares_sid(before)[targets].mean())
        found["test_targets_colliding"] = float(shares_sid(items.codes)[targets].mean())
    found |= neighbour_purity(prefixes, np.asarray(embeddings.items))
    if (categories := item_categories(corpus)) is not None:
        found |= category_purity(prefixes, categories)
    found |= copurchase(prefixes, corpus.train_sequences, corpus.num_items)
    found["popularity_r2"] = popularity_r2(items.vectors, corpus.train_item_count)
    report = {f"item/{name}": value for name, value in found.items()}
    if users is not None:
        of_users = table_figures(users, learned_codes(users))
        report |= {f"user/{name}": value for name, value in of_users.items()}
        report |= alignment_recall(items.vectors, users.vectors, corpus)
    return report | dict(extra)
