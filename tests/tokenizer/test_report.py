from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LinearRegression

from dasrec.core import Corpus, Embeddings, Ragged, SidTable
from dasrec.tokenizer.report import (
    behaviour,
    compare_reports,
    gini,
    linear_r2,
    perplexity,
    render_report,
    sid_report,
)
from dasrec.tokenizer.report.behaviour import alignment_recall
from dasrec.tokenizer.report.catalogue import item_categories
from dasrec.tokenizer.report.purity import (
    category_purity,
    copurchase,
    neighbour_purity,
    prefix_groups,
)

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


def test_figures_of_counts_by_hand(make_world: MakeWorld) -> None:
    corpus, embeddings = make_world()
    books = (np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32))
    # Of 40 items 36 share a SID and two another, which the added level takes apart. The two that
    # stand alone are frequent test targets.
    learned = np.array([[0, 0]] * 36 + [[0, 1], [1, 0], [1, 1], [1, 1]])
    targets = corpus.item_idx[corpus.queries("test")]
    by_frequency = np.argsort(np.bincount(targets, minlength=40), kind="stable")
    item_of_row = np.concatenate([by_frequency[:36], by_frequency[-2:], by_frequency[36:38]])
    row_of_item = np.argsort(item_of_row)
    added = np.array([*range(36), 0, 0, 0, 1])[:, None]
    learned, added = learned[row_of_item], added[row_of_item]
    codes = np.hstack([learned, added]).astype(np.uint16)
    z = books[0][learned[:, 0]] + books[1][learned[:, 1]]
    table = SidTable(codes, (2, 2, 36), z, books)
    report = sid_report(table, None, corpus, embeddings, extra={"item/reconstruction_error": 0.5})
    assert report["item/collision_rate_before"] == pytest.approx(1 - 4 / 40)
    assert report["item/collision_rate"] == 0
    assert report["item/largest_group"] == 36
    assert report["item/top1pct_mass"] == pytest.approx(36 / 40)
    assert report["item/code_gini_0"] == pytest.approx(gini(np.array([37, 3])))
    assert report["item/reconstruction_error"] == 0.5
    assert not any(name.startswith(("user/", "alignment")) for name in report)

    alone = np.isin(targets, by_frequency[-2:])
    assert alone.mean() > 2 / 40
    assert report["item/test_targets_colliding_before"] == pytest.approx(1 - alone.mean())
    assert report["item/test_targets_colliding"] == 0

    # A policy that moved items: its figures before are those of the codes it was given.
    moved = SidTable(learned.astype(np.uint16), (2, 2), z, books)
    report = sid_report(moved, None, corpus, embeddings, before=np.zeros_like(learned))
    assert report["item/collision_rate_before"] == pytest.approx(1 - 1 / 40)
    assert report["item/test_targets_colliding_before"] == 1
    assert report["item/collision_rate"] == pytest.approx(1 - 4 / 40)
    assert report["item/test_targets_colliding"] == pytest.approx(1 - alone.mean())


def test_copurchase_against_loops(make_world: MakeWorld) -> None:
    corpus, _ = make_world()
    rng = np.random.default_rng(2)
    codes = rng.integers(3, size=(corpus.num_items, 2))
    figures = copurchase(prefix_groups(codes), corpus.train_sequences, corpus.num_items)

    pairs, sequences = [], corpus.train_sequences
    for user in range(corpus.num_users):
        row = sequences.values[sequences.starts[user] : sequences.starts[user + 1]].tolist()
        pairs += [
            (row[i], row[j])
            for i in range(len(row))
            for j in range(i + 1, min(i + 6, len(row)))
            if row[i] != row[j]
        ]
    ends = np.bincount(np.array(pairs).reshape(-1), minlength=corpus.num_items)
    for length in (1, 2):
        prefix = [tuple(row) for row in codes[:, :length].tolist()]
        together = [prefix[a] == prefix[b] for a, b in pairs]
        assert figures[f"copurchase_{length}"] == pytest.approx(np.mean(together))
        chance = total = 0
        for a in range(corpus.num_items):
            for b in range(corpus.num_items):
                if a != b:
                    total += ends[a] * ends[b]
                    chance += ends[a] * ends[b] * (prefix[a] == prefix[b])
        assert figures[f"copurchase_chance_{length}"] == pytest.approx(chance / total)


def test_copurchase_leaves_out_repeats_and_other_users() -> None:
    # user 0: 0 0 1; user 1: 2; user 2: nothing. The only pairs are (0, 1), twice.
    sequences = Ragged(np.array([0, 0, 1, 2], np.int32), np.array([0, 3, 4, 4]))
    codes = np.array([[0], [0], [0]])
    assert copurchase(prefix_groups(codes), sequences, 3)["copurchase_1"] == 1
    apart = np.array([[0], [1], [0]])
    assert copurchase(prefix_groups(apart), sequences, 3)["copurchase_1"] == 0
    alone = Ragged(np.array([0, 1], np.int32), np.array([0, 1, 2]))
    assert copurchase(prefix_groups(codes), alone, 3) == {}


def test_held_out_interactions_change_no_training_figure(make_world: MakeWorld) -> None:
    reports = []
    for name, seed in (("a", 0), ("b", 1)):
        corpus, embeddings = make_world(name, held_out_seed=seed)
        codes = np.arange(corpus.num_items)[:, None] % 5
        book = np.eye(5, 3, dtype=np.float32)
        table = SidTable(codes.astype(np.uint16), (5,), book[codes[:, 0]], (book,))
        reports.append(sid_report(table, None, corpus, embeddings))
    for name in reports[0]:
        if "test_targets" not in name:
            assert reports[0][name] == reports[1][name], name


def test_category_purity_by_hand() -> None:
    codes = np.array([[0, 0], [0, 1], [0, 0], [1, 0], [1, 0]])
    category = pl.Series(["a", "a", "b", None, "b"])
    # known: 0 1 2 under code 0 and 4 under code 1; pairs of one first code: (0 1), (0 2), (1 2)
    figures = category_purity(prefix_groups(codes), category)
    assert figures["category_purity_1"] == pytest.approx(1 / 3)
    assert figures["category_purity_2"] == 0  # only (0, 2)
    assert figures["category_purity_chance"] == pytest.approx(2 / 6)  # (0 1), (2 4) of 6 pairs
    assert category_purity(prefix_groups(codes), pl.Series([None] * 5, dtype=pl.String)) == {}


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"category": ["A > B > C", None, ""]}, ["A > B > C", None, None]),
        ({"categories": ["A > B > C", "A", None]}, ["A > B", "A", None]),
        ({"categories": [["A", "B", "C"], [], None]}, ["A > B", None, None]),
        ({"category": ["x", "y", "z"], "categories": ["A", "B", "C"]}, ["x", "y", "z"]),
        ({"title": ["x", "y", "z"]}, None),
    ],
)
def test_item_categories(
    make_world: MakeWorld, columns: dict[str, list[object]], expected: list[str | None] | None
) -> None:
    corpus, _ = make_world()
    items = pl.DataFrame({"item_id": ["0", "1", "2"]} | columns)
    items.write_parquet(corpus.path / "items.parquet")
    found = item_categories(corpus)
    assert (None if found is None else found.to_list()) == expected


def test_items_that_are_all_alike_have_ten_neighbours_each() -> None:
    codes = np.repeat([0, 1], [30, 10])[:, None]
    figures = neighbour_purity(prefix_groups(codes), np.ones((40, 3), np.float32))
    counted = figures["purity_1"] * 40 * 10
    assert counted == pytest.approx(round(counted))
    assert neighbour_purity(prefix_groups(codes[:1]), np.ones((1, 3), np.float32)) == {}


def test_alignment_does_not_depend_on_the_block(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, _ = make_world()
    rng = np.random.default_rng(3)
    z = rng.normal(size=(100, 4)).astype(np.float32)
    whole = alignment_recall(z[:40], z[40:], corpus)
    monkeypatch.setattr(behaviour, "BLOCK", 7 * corpus.num_items)
    assert alignment_recall(z[:40], z[40:], corpus) == whole
    assert alignment_recall(z[:40, :3], z[40:], corpus) == {}


def test_several_reports_side_by_side() -> None:
    text = compare_reports({"a|b": {"x": 0.5, "y": 123456.0}, "c": {"x": 1.0, "z": 2.0}})
    assert text.splitlines() == [
        r"| figure | a\|b | c |",
        "| --- | --- | --- |",
        "| x | 0.5 | 1 |",
        "| y | 1.235e+05 | - |",
        "| z | - | 2 |",
    ]
