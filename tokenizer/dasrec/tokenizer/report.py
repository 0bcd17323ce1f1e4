"""How good a set of SIDs is: collisions, codebook use, neighbourhoods, leakage, alignment.

Shape letters: I items, K codebook size, D code dimension.
"""

from collections.abc import Mapping

import faiss
import numpy as np
import numpy.typing as npt

from dasrec.core import Corpus, Embeddings, SidTable
from dasrec.tokenizer.collisions import groups_of

Floats = npt.NDArray[np.float32]

NEIGHBOURS = 10
QUERIES = 5_000  # rows that the neighbour and alignment figures are computed on, at most
RECALL_AT = (10, 50)


def sid_report(
    items: SidTable, users: SidTable | None, corpus: Corpus, embeddings: Embeddings
) -> dict[str, float]:
    """Figures of a set of SIDs, by name.

    collision_rate: 1 - distinct SIDs / rows; `_before`: by the learned levels alone.
    usage_l, perplexity_l: share of codewords in use, exp of the code entropy.
    purity_p: share of an item's 10 nearest items in embedding space that share its first p codes.
    category_purity: share of pairs with equal first code that have the same `category`, where the
        corpus' items have such a column.
    popularity_r2: linear R^2 of log1p training popularity from z (held-out half): leakage.
    alignment_recall@K: share of validation targets among the K items nearest to the user's z by
        cosine, the user's training items left out.
    """
    report = {f"item/{k}": v for k, v in _table_figures(items).items()}
    report["item/popularity_r2"] = linear_r2(items.vectors, np.log1p(corpus.train_item_count))
    report |= _purity(items, np.asarray(embeddings.items))
    if "category" in corpus.items.columns:
        category = corpus.items["category"].cast(str).fill_null("").to_numpy()
        report["item/category_purity"] = _pair_purity(items.codes[:, 0], category)
    if users is not None:
        report |= {f"user/{k}": v for k, v in _table_figures(users).items()}
        report |= _alignment_recall(items.vectors, users.vectors, corpus)
    return report


def render_report(report: Mapping[str, float], title: str = "Semantic IDs") -> str:
    """The figures as a Markdown table."""
    lines = [f"## {title}", "", "| figure | value |", "|---|---|"]
    lines += [f"| {name} | {value:.4g} |" for name, value in report.items()]
    return "\n".join(lines) + "\n"


def perplexity(count_K: npt.NDArray[np.integer]) -> float:
    """exp(H) of a histogram: how many codewords evenly used would be as spread out."""
    share = count_K[count_K > 0] / count_K.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def gini(count: npt.NDArray[np.integer]) -> float:
    """Gini coefficient of group sizes: 0 all equal, towards 1 all in one group."""
    ordered = np.sort(count).astype(np.float64)
    n = len(ordered)
    weighted = ((n - np.arange(n)) * ordered).sum()
    return float((n + 1) / n - 2 * weighted / (n * ordered.sum()))


def collision_rate(codes: npt.NDArray[np.integer]) -> float:
    """1 - distinct rows / rows."""
    return 1 - (int(groups_of(codes).max(initial=0)) + 1) / max(len(codes), 1)


def linear_r2(x: Floats, y: npt.NDArray[np.floating]) -> float:
    """R^2 of the least-squares fit of y on x: fitted on the even rows, measured on the odd."""
    design = np.column_stack([x, np.ones(len(x))]).astype(np.float64)
    weights = np.linalg.lstsq(design[::2], y[::2])[0]
    error = y[1::2] - design[1::2] @ weights
    spread = ((y[1::2] - y[1::2].mean()) ** 2).sum()
    return float(1 - (error**2).sum() / spread) if spread > 0 else 0.0


def _table_figures(table: SidTable) -> dict[str, float]:
    learned = table.codes[:, : len(table.codebooks)]
    sizes = np.bincount(groups_of(learned))
    top = -(-len(sizes) // 100)
    figures = {
        "collision_rate_before": collision_rate(learned),
        "collision_rate": collision_rate(table.codes),
        "largest_group": float(sizes.max()),
        "top1pct_mass": float(np.sort(sizes)[-top:].sum() / sizes.sum()),
        "gini": gini(sizes),
    }
    for level, size in enumerate(table.level_sizes[: len(table.codebooks)]):
        count_K = np.bincount(table.codes[:, level], minlength=size)
        figures[f"usage_{level}"] = float((count_K > 0).mean())
        figures[f"perplexity_{level}"] = perplexity(count_K)
    return figures


def _purity(items: SidTable, x: Floats) -> dict[str, float]:
    rows = _sample(np.arange(len(x)))
    unit = _unit(x)
    count = min(NEIGHBOURS + 1, len(x))
    neighbours = faiss.knn(unit[rows], unit, count, metric=faiss.METRIC_INNER_PRODUCT)[1]
    other = neighbours != rows[:, None]  # an item is its own neighbour, though not surely first
    figures = {}
    for length in (1, 2):
        if length > len(items.codebooks):
            break
        prefix_I = groups_of(items.codes[:, :length])
        same = prefix_I[neighbours] == prefix_I[rows][:, None]
        figures[f"item/purity_{length}"] = float(same[other].mean())
    return figures


def _pair_purity(code_I: npt.NDArray[np.integer], category_I: npt.NDArray[np.object_]) -> float:
    """P(same category | same code) over pairs of distinct items."""

    def pairs(groups: npt.NDArray[np.int64]) -> float:
        size = np.bincount(groups).astype(np.float64)
        return float((size * (size - 1)).sum())

    number_I = np.unique(category_I, return_inverse=True)[1]
    both = groups_of(np.column_stack([code_I, number_I]))
    return pairs(both) / max(pairs(groups_of(code_I[:, None])), 1.0)


def _alignment_recall(z_items: Floats, z_users: Floats, corpus: Corpus) -> dict[str, float]:
    rows = _sample(corpus.queries("valid"))
    if not len(rows):
        return {}
    user, target = corpus.user_idx[rows], corpus.item_idx[rows]
    scores = _unit(z_users[user]) @ _unit(z_items).T
    sequences = corpus.train_sequences
    lengths = sequences.starts[user + 1] - sequences.starts[user]
    first = np.repeat(sequences.starts[user] - np.cumsum(lengths) + lengths, lengths)
    seen = sequences.values[first + np.arange(lengths.sum())]
    scores[np.repeat(np.arange(len(rows)), lengths), seen] = -np.inf
    of_target = scores[np.arange(len(rows)), target][:, None]
    # A tie counts half: items with one SID have one z.
    rank = (scores > of_target).sum(1) + ((scores == of_target).sum(1) - 1) / 2
    return {f"alignment_recall@{k}": float((rank < k).mean()) for k in RECALL_AT}


def _unit(x: Floats) -> Floats:
    x = np.ascontiguousarray(x, np.float32)
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(x / np.maximum(norm, 1e-12), np.float32)


def _sample(rows: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """At most QUERIES of `rows`, evenly spaced."""
    picked = np.linspace(0, len(rows) - 1, min(len(rows), QUERIES)).astype(np.int64)
    return np.asarray(rows[picked], np.int64)
