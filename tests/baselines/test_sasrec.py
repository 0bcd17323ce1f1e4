from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from dasrec.baselines import (
    Sasrec,
    SasrecConfig,
    SasrecRecommendConfig,
    load_sasrec,
    recommend_sasrec,
    sasrec_artifact,
    sasrec_train,
    train_sasrec,
)
from dasrec.baselines.sasrec_artifact import score_queries
from dasrec.baselines.sequences import training_windows
from dasrec.core import Corpus, load_recommendations

MakeCorpus = Callable[..., Corpus]

TINY = SasrecConfig(hidden=16, num_heads=2, num_layers=2, max_length=8, batch_size=8, epochs=3)


@pytest.fixture
def model() -> Sasrec:
    torch.manual_seed(0)
    model = Sasrec(
        num_items=20, hidden=16, num_layers=2, num_heads=2, max_length=10, dropout=0.3
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # away from zero, so that every path matters
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def test_later_items_change_nothing_before_them(model: Sasrec) -> None:
    items = torch.randint(20, (4, 10))
    states = model(items)
    for place in range(1, 10):
        changed = items.clone()
        changed[:, place:] = torch.randint(20, changed[:, place:].shape)
        torch.testing.assert_close(model(changed)[:, :place], states[:, :place])
        changed = items.clone()
        changed[:, place - 1] = (items[:, place - 1] + 1) % 20
        assert (model(changed)[:, place:] != states[:, place:]).any()  # but earlier ones matter


def test_padding_changes_nothing(model: Sasrec) -> None:
    items = torch.randint(20, (3, 6))
    padded = torch.cat([items, torch.full((3, 4), 20)], dim=1)
    torch.testing.assert_close(model(padded)[:, :6], model(items))


def test_the_repeat_bias_is_added_once_to_what_the_sequence_holds(model: Sasrec) -> None:
    items = torch.tensor([[3, 5, 3], [1, 1, 1]])
    states = model(items)[:, -1]
    with torch.no_grad():
        model.repeat_bias.fill_(-2.5)
    scores = model.score(states, items)
    expected = states @ model.items.weight[:20].T  # not of padding
    expected[0, [3, 5]] -= 2.5
    expected[1, 1] -= 2.5
    torch.testing.assert_close(scores, expected)


def test_batches_change_no_score(
    model: Sasrec, make_corpus: MakeCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    sequences = [rng.integers(0, 20, rng.integers(3, 18)).tolist() for _ in range(30)]
    corpus = make_corpus(sequences, 20)
    queries = corpus.queries("test")
    with torch.no_grad():
        together = score_queries(model, corpus, queries)
        monkeypatch.setattr(sasrec_artifact, "SCORE_BATCH", 4)
        torch.testing.assert_close(score_queries(model, corpus, queries), together)
        for row, sequence in enumerate(sequences):  # all but the last event, the latest ten
            items = torch.tensor([sequence[:-1][-10:]])
            alone = model.score(model(items)[:, -1], items)[0]
            torch.testing.assert_close(together[row], alone)


@pytest.mark.parametrize("num_negatives", [None, 12])
def test_the_withheld_item_comes_first(
    num_negatives: int | None, checkerboard: Corpus, tmp_path: Path
) -> None:
    config = SasrecConfig(
        hidden=16, max_length=10, dropout=0.1, batch_size=16, epochs=25, num_negatives=num_negatives
    )
    train_sasrec(config, checkerboard, tmp_path / "model")
    recommend_sasrec(
        SasrecRecommendConfig(width=20, exclude_seen="always"),
        checkerboard,
        tmp_path / "model",
        tmp_path / "out",
    )
    lists = load_recommendations(tmp_path / "out", checkerboard)
    queries = checkerboard.queries("test")
    first = lists.item_idx[np.searchsorted(lists.queries, queries), 0]
    assert (first == checkerboard.item_idx[queries]).all()


def test_every_target_of_a_batch_weighs_the_same(make_corpus: MakeCorpus) -> None:
    lengths = [3, 4, 10, 5, 9, 10, 4]  # the last two events are withheld
    rng = np.random.default_rng(0)
    corpus = make_corpus([rng.permutation(20)[:n].tolist() for n in lengths], num_items=20)
    config = TINY.model_copy(update={"dropout": 0.0, "batch_size": 100})
    torch.manual_seed(1)
    windows = training_windows(corpus.train_sequences, config.max_length)
    trainer = sasrec_train._Trainer(config, corpus, windows, seed=0)
    losses = []
    with torch.inference_mode():
        for user in range(corpus.num_users):
            first, end = corpus.train_sequences.starts[user : user + 2]
            events = torch.from_numpy(corpus.train_sequences.values[first:end].astype(np.int64))
            for place in range(1, len(events)):
                past = events[None, :place]
                logits = trainer.model.score(trainer.model(past)[:, -1], past)
                losses.append(F.cross_entropy(logits, events[place : place + 1]).item())
    assert trainer.run_epoch(0)["loss"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_resumed_equals_unbroken(
    checkerboard: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = train_sasrec(TINY, checkerboard, tmp_path / "unbroken", seed=3)
    run_epoch = sasrec_train._Trainer.run_epoch

    def stop(self: sasrec_train._Trainer, epoch: int) -> dict[str, float]:
        if epoch == 2:
            raise KeyboardInterrupt
        return run_epoch(self, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(sasrec_train._Trainer, "run_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            train_sasrec(TINY, checkerboard, tmp_path / "resumed", seed=3)
    assert not (tmp_path / "resumed").exists()
    resumed = train_sasrec(TINY, checkerboard, tmp_path / "resumed", seed=3)
    assert resumed.files == unbroken.files  # the same bytes
    assert resumed.fingerprint == unbroken.fingerprint
    assert not list(tmp_path.glob(".*.work"))
    other = train_sasrec(TINY, checkerboard, tmp_path / "other", seed=4)
    assert other.files["model.safetensors"] != unbroken.files["model.safetensors"]


def test_valid_and_test_events_do_not_move_the_weights(
    make_corpus: MakeCorpus, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    train = [rng.integers(0, 12, 6).tolist() for _ in range(20)]
    one = make_corpus([[*t, 0, 1] for t in train], 12, "one")
    two = make_corpus([[*t, 11, 10] for t in train], 12, "two")
    config = TINY.model_copy(update={"epochs": 1})  # one epoch: early stopping has no say
    train_sasrec(config, one, tmp_path / "a")
    train_sasrec(config, two, tmp_path / "b")
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_test_queries_read_the_validation_event(make_corpus: MakeCorpus, model: Sasrec) -> None:
    one = make_corpus([[1, 2, 3, 4, 5]], 20, "one")
    two = make_corpus([[1, 2, 3, 9, 5]], 20, "two")
    three = make_corpus([[1, 2, 3, 4, 9]], 20, "three")
    states = [score_queries(model, corpus, corpus.queries("test")) for corpus in (one, two, three)]
    assert not torch.equal(states[0], states[1])
    assert torch.equal(states[0], states[2])


def test_the_kept_weights_are_the_best_epochs(checkerboard: Corpus, tmp_path: Path) -> None:
    manifest = train_sasrec(TINY, checkerboard, tmp_path / "model")
    figures = [epoch["ndcg@10"] for epoch in manifest.metrics["history"]]
    assert manifest.metrics["best_epoch"] == int(np.argmax(figures))
    model, _ = load_sasrec(tmp_path / "model", checkerboard)
    config = SasrecRecommendConfig(width=10)
    recommend_sasrec(config, checkerboard, tmp_path / "model", tmp_path / "out")
    lists = load_recommendations(tmp_path / "out", checkerboard)
    queries = checkerboard.queries("valid")
    hits = (
        lists.item_idx[np.searchsorted(lists.queries, queries)]
        == checkerboard.item_idx[queries][:, None]
    )
    ndcg = (hits / np.log2(np.arange(10) + 2)).sum(1).mean()
    assert ndcg == pytest.approx(max(figures))
    assert not model.training


def test_refuses_before_any_work(
    make_corpus: MakeCorpus, checkerboard: Corpus, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="hidden 5 is not a multiple of 2 heads"):
        SasrecConfig(hidden=5, num_heads=2)
    short = make_corpus([[1, 2, 3]], 4, "short")  # one training event
    with pytest.raises(ValueError, match="expected users with two training events"):
        train_sasrec(TINY, short, tmp_path / "model")
    (tmp_path / "there").mkdir()
    with pytest.raises(FileExistsError, match="choose another folder"):
        train_sasrec(TINY, checkerboard, tmp_path / "there")
    train_sasrec(TINY.model_copy(update={"epochs": 1}), checkerboard, tmp_path / "model")
    with pytest.raises(ValueError, match="was built from corpus"):
        load_sasrec(tmp_path / "model", make_corpus([[1, 2, 3, 4]], 5, "other"))
    assert {p.name for p in tmp_path.iterdir()} == {"corpora", "there", "model"}
