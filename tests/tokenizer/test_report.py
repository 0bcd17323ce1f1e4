from collections.abc import Callable

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from dasrec.core import Corpus, Embeddings, SidTable
from dasrec.tokenizer.report import gini, linear_r2, perplexity, render_report, sid_report

MakeWorld = Callable[..., tuple[Corpus, Embeddings]]


def test_perplexity_and_gini_by_hand() -> None:
    assert perplexity(np.array([5, 5, 5, 5, 0])) == pytest.approx(4)
    assert perplexity(np.array([9, 0, 0])) == pytest.approx(1)
    assert gini(np.array([3, 3, 3])) == pytest.approx(0)
    counts = np.array([1, 2, 7])
    mean_difference = np.abs(counts[:, None] - counts).mean()
    assert gini(counts) == pytest.approx(mean_difference / (2 * counts.mean()))


def test_linear_r2_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4)).astype(np.float32)
    y = x @ rng.normal(size=4) + rng.normal(size=200)
    expected = LinearRegression().fit(x[::2], y[::2]).score(x[1::2], y[1::2])
    assert linear_r2(x, y) == pytest.approx(expected, rel=1e-6)


def test_report_against_loops(make_world: MakeWorld) -> None:
    corpus, embeddings = make_world()
    rng = np.random.default_rng(1)
    books = (rng.normal(size=(5, 3)).astype(np.float32), rng.normal(size=(4, 3)).astype("f4"))

    def table(rows: int) -> SidTable:
        codes = np.column_stack([rng.integers(5, size=rows), rng.integers(4, size=rows)])
        z = books[0][codes[:, 0]] + books[1][codes[:, 1]]
        return SidTable(codes.astype(np.uint16), (5, 4), z, books)

    items, users = table(corpus.num_items), table(corpus.num_users)
    report = sid_report(items, users, corpus, embeddings)

    sids = [tuple(codes) for codes in items.codes.tolist()]
    assert report["item/collision_rate"] == pytest.approx(1 - len(set(sids)) / len(sids))
    assert report["item/largest_group"] == max(sids.count(sid) for sid in sids)
    assert report["item/usage_0"] == len(set(items.codes[:, 0])) / 5

    unit = embeddings.items / np.linalg.norm(embeddings.items, axis=1, keepdims=True)
    same: dict[int, list[bool]] = {1: [], 2: []}
    for i in range(len(unit)):
        near = [j for j in np.argsort(-unit @ unit[i]) if j != i][:10]
        for length in same:
            same[length] += [sids[i][:length] == sids[j][:length] for j in near]
    assert report["item/purity_1"] == pytest.approx(np.mean(same[1]))
    assert report["item/purity_2"] == pytest.approx(np.mean(same[2]))

    category = corpus.items["category"].to_list()
    pairs = [
        category[i] == category[j]
        for i in range(len(sids))
        for j in range(len(sids))
        if i != j and sids[i][0] == sids[j][0]
    ]
    assert report["item/category_purity_1"] == pytest.approx(np.mean(pairs))

    hits = []
    for row in corpus.queries("valid"):
        u, target = corpus.user_idx[row], corpus.item_idx[row]
        z_u = users.vectors[u]
        scores = items.vectors @ z_u / np.linalg.norm(items.vectors, axis=1) / np.linalg.norm(z_u)
        sequence = corpus.train_sequences
        seen = set(sequence.values[sequence.starts[u] : sequence.starts[u + 1]].tolist())
        if target in seen:
            hits.append(False)
            continue
        rest = [i for i in range(len(sids)) if i not in seen and i != target]
        above = sum(scores[i] > scores[target] + 1e-6 for i in rest)
        ties = sum(abs(scores[i] - scores[target]) <= 1e-6 for i in rest)
        hits.append(above + ties / 2 < 10)
    assert report["alignment_recall@10"] == pytest.approx(np.mean(hits))

    text = render_report(report)
    assert text.startswith("## Semantic IDs\n")
    assert all(f"| {name} |" in text for name in report)
