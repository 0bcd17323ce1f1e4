"""The item head: its states, what it learns from, and the lists of beam and head together."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from tests.generative.world import (
    NUM_ITEMS,
    NUM_USERS,
    World,
    make_corpus,
    make_sids,
    pretrain_config,
    scratch,
)
from tests.walks import write_walks
from torch import nn

from dasrec.core import (
    Corpus,
    Recommendations,
    build_config,
    load_recommendations,
    write_recommendations,
)
from dasrec.eval.ranking_metrics import ndcg_at_k, rank_of_target
from dasrec.generative import (
    ItemHeadConfig,
    ItemRankConfig,
    RetrieveConfig,
    pretrain,
    rank_items,
    retrieve,
    train_item_head,
)
from dasrec.generative.data.sequences import hide_times, training_windows
from dasrec.generative.item_head import states
from dasrec.generative.item_head.model import ItemHead, codewords
from dasrec.generative.item_head.states import query_states, training_states
from dasrec.generative.item_head.train import _Trainer, load_item_head, target_rank
from dasrec.generative.model.load import Generator, load_generator
from dasrec.generative.retrieve import query_prompts

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Could not find a config file:UserWarning"),
]
TRAIN = ItemHeadConfig(epochs=4, batch_size=64, learning_rate=1e-2, patience=4)
PROMPT = {"max_history": 4, "user_sid": True, "time": True}


class Trained(NamedTuple):
    world: World
    path: Path
    """Holds base, lists and head."""
    generator: Generator


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    path = tmp_path_factory.mktemp("item_head")
    corpus = make_corpus(path / "corpus")
    world = World(corpus, make_sids(path / "sids", corpus))
    config = pretrain_config(
        base=scratch("llama"),
        prompt=PROMPT,
        trainer={
            "learning_rate": 5e-3,
            "num_train_epochs": 6,
            "per_device_train_batch_size": 8,
        },
    )
    pretrain(config, world.corpus, world.sids, path / "base")
    lists = RetrieveConfig(num_beams=5, num_items=5, exclude_seen="always")
    retrieve(lists, path / "base", world.corpus, world.sids, path / "lists")
    train_item_head(TRAIN, path / "base", world.corpus, world.sids, path / "head")
    return Trained(world, path, load_generator(path / "base", world.sids))


def last_state(generator: Generator, tokens: np.ndarray) -> torch.Tensor:
    """Of one sequence alone."""
    with torch.no_grad():
        out = generator.model(torch.from_numpy(tokens)[None], output_hidden_states=True)
    state: torch.Tensor = out.hidden_states[-1][0, -1].float()
    return state


@pytest.mark.parametrize("batch_tokens", [1, 70, 10_000])
def test_states_are_those_of_every_prefix(
    batch_tokens: int, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(states, "BATCH_TOKENS", batch_tokens)
    (corpus, sids), generator = trained.world, trained.generator
    data = training_states(generator, corpus, sids, 10**6, seed=3)
    assert data.items_P.tolist() == corpus.item_idx[corpus.train_rows].tolist()
    # The same sequences, cut by hand before each item's first code.
    builder = generator.sequence_builder(corpus, sids)
    windows = hide_times(training_windows(corpus, 4), 3)
    rows = builder.render(windows.items, windows.users, times=windows.times)
    first_codes = set(generator.vocabulary.item_levels[0])
    expected = []
    for start, end in zip(rows.starts[:-1], rows.starts[1:], strict=True):
        tokens = rows.tokens[start:end]
        cuts = [place for place, token in enumerate(tokens) if token in first_codes]
        expected += [last_state(generator, tokens[:cut]) for cut in cuts]
    torch.testing.assert_close(data.states_PH, torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_query_states_are_those_of_the_prompts(trained: Trained) -> None:
    (corpus, sids), generator = trained.world, trained.generator
    queries = corpus.queries("valid")
    for with_user in (True, False):
        found = query_states(generator, corpus, sids, queries, use_user_sid=with_user)
        builder = generator.sequence_builder(corpus, sids)
        prompts = query_prompts(corpus, builder, queries, use_user_sid=with_user)
        for row in (0, 7, 30):
            tokens = prompts.tokens[prompts.starts[row] : prompts.starts[row + 1]]
            expected = last_state(generator, tokens)
            torch.testing.assert_close(found[row], expected, rtol=1e-4, atol=1e-5)


def test_a_large_log_is_sampled_by_whole_sequences(trained: Trained) -> None:
    (corpus, sids), generator = trained.world, trained.generator
    everything = training_states(generator, corpus, sids, 10**6, seed=0)
    some = training_states(generator, corpus, sids, 100, seed=0)
    assert 80 < len(some.items_P) <= 100
    rows = {
        (item, tuple(np.round(state.numpy(), 3)))
        for item, state in zip(everything.items_P.tolist(), everything.states_PH, strict=True)
    }
    for item, state in zip(some.items_P.tolist(), some.states_PH, strict=True):
        assert (item, tuple(np.round(state.numpy(), 3))) in rows
    assert len(training_states(generator, corpus, sids, 1, seed=0).items_P) >= 1


def test_head_is_its_formula() -> None:
    torch.manual_seed(0)
    head = ItemHead(torch.randn(7, 3), dropout=0.9).eval()
    nn.init.normal_(head.own_IH)
    state = torch.randn(2, 3)
    head.requires_grad_(False)
    scores = head(state) @ head.vectors().T
    matrix, bias, project = head.query.weight, head.query.bias, head.project.weight
    for row in range(2):
        for item in range(7):
            query = state[row] + matrix @ state[row] + bias
            vector = project @ head.codewords_IH[item] + head.own_IH[item]
            assert scores[row, item].item() == pytest.approx(float(query @ vector), abs=1e-4)
    some = torch.tensor([5, 2])
    torch.testing.assert_close(head.vectors(some), head.vectors()[some])
    assert "codewords_IH" not in head.state_dict()


def test_codewords_are_sums_over_the_levels() -> None:
    model = nn.Module()
    table = nn.Embedding(9, 4)
    model.get_input_embeddings = lambda: table  # type: ignore[assignment]
    tokens = torch.tensor([[0, 3, 8], [1, 3, 7]])
    expected = table.weight[[0, 1]] + table.weight[[3, 3]] + table.weight[[8, 7]]
    torch.testing.assert_close(codewords(model, tokens), expected.detach())


def test_learns_the_walk(trained: Trained) -> None:
    """A random order has the target among ten of 48 items in a fifth of the queries."""
    history = load_item_head_manifest(trained)["history"]
    assert history[-1]["loss"] < history[0]["loss"] < np.log(NUM_ITEMS) + 0.2
    assert max(row["recall@10"] for row in history) > 0.4


def load_item_head_manifest(trained: Trained) -> dict:  # type: ignore[type-arg]
    corpus, sids = trained.world
    return load_item_head(trained.path / "head", trained.generator, corpus, sids)[1].metrics


def test_learns_from_training_interactions_alone(trained: Trained, tmp_path: Path) -> None:
    other = make_corpus(tmp_path / "other", last_items=5)
    assert (other.item_idx != trained.world.corpus.item_idx).any()
    weights = []
    for corpus in (trained.world.corpus, other):
        torch.manual_seed(0)
        trainer = _Trainer(TRAIN, trained.generator, corpus, trained.world.sids, seed=0)
        trainer.run_epoch(0)
        weights.append(trainer.head.state_dict())
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


def test_cold_items_keep_to_their_codewords(trained: Trained, tmp_path: Path) -> None:
    """Their own vectors stay zero, and the loss has no term for them."""
    rng = np.random.default_rng(0)
    walks = [[*rng.integers(0, 40, 5).tolist(), 44, 45] for _ in range(NUM_USERS)]
    corpus = write_walks(tmp_path / "corpus", walks, NUM_ITEMS)
    trainer = _Trainer(TRAIN, trained.generator, corpus, trained.world.sids, seed=0)
    found = trainer.run_epoch(0)
    moved = (trainer.head.own_IH != 0).any(1)
    assert moved[:40].all()
    assert not moved[40:].any()
    assert found["loss"] < np.log(40) + 0.1  # of 40 items, not 48


def brute_force(
    trained: Trained, corpus: Corpus, query: int, row: int, lists: Recommendations, weight: float
) -> list[int]:
    """The catalogue without what was seen, ordered in plain Python."""
    head, _ = load_item_head(trained.path / "head", trained.generator, corpus, trained.world.sids)
    state = query_states(trained.generator, corpus, trained.world.sids, np.array([query]))
    with torch.no_grad():
        logits = (head(state) @ head.vectors().T)[0].tolist()
    beam = {
        int(item): float(score)
        for item, score in zip(lists.item_idx[row], lists.score[row], strict=True)
        if item >= 0
    }
    last = min(beam.values())
    user = corpus.user_idx[query]
    seen = {int(corpus.item_idx[r]) for r in range(query) if corpus.user_idx[r] == user}
    scored = {
        item: beam.get(item, last) + weight * logits[item]
        for item in range(NUM_ITEMS)
        if item not in seen
    }
    return sorted(scored, key=lambda item: -scored[item])


@pytest.mark.parametrize("weight", [0.0, 0.7, None])
def test_lists_equal_brute_force(weight: float | None, trained: Trained, tmp_path: Path) -> None:
    (corpus, sids), path = trained.world, trained.path
    config = ItemRankConfig(width=8, weight=weight, weight_grid=(0.0, 0.5, 3.0))
    made = rank_items(
        config, path / "head", path / "base", path / "lists", corpus, sids, tmp_path / "out"
    )
    lists = load_recommendations(path / "lists", corpus)
    ranked = load_recommendations(tmp_path / "out", corpus)
    chosen = made.metrics["weight"]
    for row in (0, 11, 60, 119):
        expected = brute_force(trained, corpus, int(ranked.queries[row]), row, lists, chosen)[:8]
        if chosen:  # without the head all items outside the beam tie
            assert ranked.item_idx[row].tolist() == expected
        else:
            assert ranked.item_idx[row, :4].tolist() == expected[:4]
    outside = [
        item not in lists.item_idx[row]
        for row in range(len(ranked.queries))
        for item in ranked.item_idx[row]
    ]
    assert made.metrics["share_from_head"] == pytest.approx(np.mean(outside))


def test_weight_is_the_best_on_validation(trained: Trained, tmp_path: Path) -> None:
    (corpus, sids), path = trained.world, trained.path
    grid = (0.0, 0.2, 1.0, 5.0)
    config = ItemRankConfig(width=NUM_ITEMS, weight_grid=grid)
    made = rank_items(
        config, path / "head", path / "base", path / "lists", corpus, sids, tmp_path / "out"
    )
    measured = {}
    valid = np.isin(load_recommendations(path / "lists", corpus).queries, corpus.queries("valid"))
    for weight in grid:
        fixed, out = ItemRankConfig(width=NUM_ITEMS, weight=weight), tmp_path / str(weight)
        rank_items(fixed, path / "head", path / "base", path / "lists", corpus, sids, out)
        lists = load_recommendations(out, corpus)
        rank = rank_of_target(lists.item_idx[valid], corpus.item_idx[lists.queries[valid]])
        measured[f"{weight:g}"] = float(ndcg_at_k(rank, 10).mean())
    told = made.metrics["valid_ndcg@10"]
    assert told.keys() == measured.keys()
    for name in ("0.2", "1", "5"):  # without ties
        assert told[name] == pytest.approx(measured[name])
    assert made.metrics["weight"] == float(max(told, key=told.get))


def test_target_rank_counts_what_is_ahead(trained: Trained) -> None:
    corpus = trained.world.corpus
    queries = corpus.queries("test")[:20]
    scores = np.random.default_rng(0).normal(size=(20, NUM_ITEMS)).astype(np.float32)
    for barred in (False, True):
        found = target_rank(torch.from_numpy(scores), corpus, queries, barred=barred)
        for row, query in enumerate(queries):
            user, target = corpus.user_idx[query], corpus.item_idx[query]
            seen = {int(corpus.item_idx[r]) for r in range(query) if corpus.user_idx[r] == user}
            ahead = [
                item
                for item in range(NUM_ITEMS)
                if scores[row, item] > scores[row, target] and not (barred and item in seen)
            ]
            assert found[row] == 1 + len(ahead)


def test_training_goes_on_where_it_stopped(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, sids = trained.world
    run = _Trainer.run_epoch

    def stop_in_third(self: _Trainer, epoch: int) -> dict[str, float]:
        if epoch == 2:
            raise KeyboardInterrupt
        return run(self, epoch)

    monkeypatch.setattr(_Trainer, "run_epoch", stop_in_third)
    with pytest.raises(KeyboardInterrupt):
        train_item_head(TRAIN, trained.path / "base", corpus, sids, tmp_path / "head")
    assert not (tmp_path / "head").exists()
    monkeypatch.setattr(_Trainer, "run_epoch", run)
    train_item_head(TRAIN, trained.path / "base", corpus, sids, tmp_path / "head")
    heads = [
        load_item_head(path, trained.generator, corpus, sids)[0].state_dict()
        for path in (tmp_path / "head", trained.path / "head")
    ]
    for name, value in heads[0].items():
        torch.testing.assert_close(value, heads[1][name])


def test_faults_are_named(trained: Trained, tmp_path: Path) -> None:
    (corpus, sids), path = trained.world, trained.path
    lists = load_recommendations(path / "lists", corpus)
    stranger = tmp_path / "stranger"
    write_recommendations(
        stranger, {}, {"corpus": corpus.manifest}, lists, metrics={"seen_excluded": True}
    )
    parts = (path / "head", path / "base")
    with pytest.raises(ValueError, match=r"are not of .*base; retrieve again"):
        rank_items(ItemRankConfig(), *parts, stranger, corpus, sids, tmp_path / "out")
    late = RetrieveConfig(num_beams=5, num_items=5, splits=("test",))
    retrieve(late, path / "base", corpus, sids, tmp_path / "late")
    with pytest.raises(ValueError, match="late has no validation queries to choose it on"):
        rank_items(ItemRankConfig(), *parts, tmp_path / "late", corpus, sids, tmp_path / "out")
    fixed = ItemRankConfig(weight=1.0)
    rank_items(fixed, *parts, tmp_path / "late", corpus, sids, tmp_path / "out")
    with pytest.raises(FileExistsError):
        train_item_head(TRAIN, path / "base", corpus, sids, path / "head")
    wild = build_config(
        ItemHeadConfig, {"learning_rate": 1e30, "epochs": 1, "batch_size": 32}, "test"
    )
    with pytest.raises(ValueError, match=r"lower train\.learning_rate"):
        train_item_head(wild, path / "base", corpus, sids, tmp_path / "wild")
