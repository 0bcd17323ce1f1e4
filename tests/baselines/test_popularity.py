from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dasrec.baselines import PopularityConfig, recommend_popularity
from dasrec.core import Corpus, load_recommendations

MakeCorpus = Callable[..., Corpus]


def test_ranks_by_training_count_with_ties_by_index(
    make_corpus: MakeCorpus, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    sequences = [(rng.integers(0, 6, 8) ** 2 % 7).tolist() for _ in range(30)]
    corpus = make_corpus(sequences, 9)  # items 7 and 8 were never seen
    count = Counter(item for sequence in sequences for item in sequence[:-2])
    expected = sorted(range(9), key=lambda item: (-count[item], item))[:5]
    recommend_popularity(PopularityConfig(width=5), corpus, tmp_path / "out")
    lists = load_recommendations(tmp_path / "out", corpus)
    assert len(lists.queries) == 60
    assert (lists.item_idx == expected).all()
    assert (lists.score == [count[item] for item in expected]).all()


def test_excluding_what_was_seen(checkerboard: Corpus, tmp_path: Path) -> None:
    config = PopularityConfig(width=20, exclude_seen="always")
    recommend_popularity(config, checkerboard, tmp_path / "out")
    lists = load_recommendations(tmp_path / "out", checkerboard)
    # 8 of 20 items were seen before the validation event, 9 before the test event
    assert set((lists.item_idx >= 0).sum(1)) == {12, 11}
    start = checkerboard.user_start[checkerboard.user_idx[lists.queries]]
    for row, query in enumerate(lists.queries):
        assert not set(checkerboard.item_idx[start[row] : query]) & set(lists.item_idx[row])


def test_valid_and_test_events_teach_nothing(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    one = make_corpus([[0, 1, 2, 3], [1, 2, 4, 3]], 5, "one")
    two = make_corpus([[0, 1, 4, 4], [1, 2, 0, 0]], 5, "two")
    for name, corpus in (("a", one), ("b", two)):
        recommend_popularity(PopularityConfig(width=5), corpus, tmp_path / name)
    a, b = load_recommendations(tmp_path / "a", one), load_recommendations(tmp_path / "b", two)
    assert (a.item_idx == b.item_idx).all()
    assert (a.score == b.score).all()
