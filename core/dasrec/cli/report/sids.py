"""Semantic IDs of a report: how the codes are used, and what a prefix means."""

from collections.abc import Collection, Sequence

import numpy as np

from dasrec.cli.report.document import Prefix, SidFigures
from dasrec.cli.report.runs import NamedRun
from dasrec.core.semantic_ids import load_sids
from dasrec.tokenizer.report.counts import code_counts
from dasrec.tokenizer.report.tree import Node, Texts, build_tree

BRANCHES = (8, 3)
"""Children shown of the root and of a first code."""


def sids_of(
    runs: Sequence[NamedRun], tokenizers: Collection[str] | None = None
) -> list[SidFigures]:
    """Figures of the SIDs of every run.

    Args:
        runs: see `open_runs`.
        tokenizers: only these; None = all.
    """
    found = []
    for named in runs:
        paths = [
            path
            for path in named.artifacts("sids")
            if tokenizers is None or path.name in tokenizers
        ]
        if not paths:
            continue
        corpus = named.run.corpus
        texts = Texts.of(corpus)
        for path in paths:
            sids = load_sids(path, corpus.manifest)
            nodes, _ = build_tree(sids.items, texts, corpus.train_item_count, BRANCHES)
            found.append(
                SidFigures(
                    label=path.name if len(runs) == 1 else f"{named.name}: {path.name}",
                    level_sizes=sids.items.level_sizes,
                    learned_levels=len(sids.items.codebooks),
                    policy=str(sids.manifest.config.get("collisions", "none")),
                    fingerprint=sids.fingerprint,
                    has_users=sids.users is not None,
                    figures={
                        name: float(value)
                        for name, value in sids.manifest.metrics.items()
                        if isinstance(value, int | float)
                    },
                    usage=tuple(
                        tuple(np.sort(count)[::-1].tolist()) for count in code_counts(sids.items)
                    ),
                    prefixes=tuple(map(_prefix, nodes)),
                )
            )
    return found


def _prefix(node: Node) -> Prefix:
    return Prefix(
        codes=node.prefix,
        size=node.size,
        category=node.category,
        category_share=node.category_share,
        words=tuple(node.words),
        titles=tuple(node.titles),
        children=tuple(map(_prefix, node.children)),
    )
