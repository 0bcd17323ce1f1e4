"""Every kind of field against a computation by hand, and the gradient of every table."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.ranking.rich_world import ITEMS, field, write
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from dasrec.core import Corpus, SemanticIds
from dasrec.core.config import build_config
from dasrec.ranking import (
    CtrModel,
    FeatureConfig,
    ModelConfig,
    RankingConfig,
    build_schema,
    load_ranker,
    train_ranker,
)
from dasrec.ranking.attributes import CategoryEmbedding, NumberEmbedding, SequenceEmbedding
from dasrec.ranking.row_tensors import to_tensors
from dasrec.ranking.rows import Batch, HistorySource, impression_rows
from dasrec.ranking.sid_embedding import SidGate
from dasrec.ranking.tables import bigram_hashes, build_tables

CPU = torch.device("cpu")
EVERYTHING: dict[str, Any] = {
    "fields": [
        field("sequence", "item", "genres", separator=", "),
        field("categorical", "item", "author", hash_size=8),
        field("numeric", "item", "price", encoding="standardise"),
        field("numeric", "user", "fans", encoding="standardise"),
        field("numeric", "context", "bid", encoding="standardise"),
    ],
    "max_history": 6,
    "time_of_day": True,
    "attribute_history": True,
    "sid_bigrams": True,
    "sid_vector": True,
    "sid_gate": True,
    "hash_size": 32,
}
DIM = 4


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return write(tmp_path_factory.mktemp("rich") / "corpus")


@pytest.fixture
def sids(corpus: Corpus, make_sids: Callable[..., SemanticIds]) -> SemanticIds:
    rng = np.random.default_rng(0)
    return make_sids(corpus, np.stack([rng.integers(0, k, ITEMS) for k in (6, 5, 4)], axis=1))


def features_of(vectors: Path | None = None, **values: Any) -> FeatureConfig:
    values = EVERYTHING | values
    if vectors is not None:
        np.save(vectors, np.random.default_rng(1).normal(size=(ITEMS, 3)).astype(np.float32))
        content = field("dense", "item", "content", path=str(vectors))
        values = values | {"fields": [*values["fields"], content]}
    return build_config(FeatureConfig, values, "features")


def batch_of(corpus: Corpus, config: FeatureConfig, model: nn.Module) -> tuple[Batch, Tensor]:
    rows = to_tensors(impression_rows(corpus, "train"), model.schema, CPU)  # type: ignore[arg-type]
    source = HistorySource(corpus, config.max_history, CPU)
    batch = source.batch(rows.user_M, rows.item_M, rows.end_M, rows.category_MC, rows.number_MC)
    return batch, rows.label_M


def model_of(corpus: Corpus, sids: SemanticIds | None, config: FeatureConfig) -> CtrModel:
    torch.manual_seed(0)
    schema = build_schema(config, corpus, impression_rows(corpus, "train"), sids)
    tables = build_tables(config, schema, corpus, sids)
    model = ModelConfig(embedding_dim=DIM, dropout=0.0)
    return CtrModel(model, config, schema, tables)


def test_categories_of_several_fields_share_no_row() -> None:
    layer = CategoryEmbedding([3, 2, 4], DIM)
    rows = torch.tensor([[0, 0, 0], [2, 1, 3]])
    expected = layer.table.weight[[0, 3, 5, 2, 4, 8]].reshape(2, 3, DIM)
    assert torch.equal(layer(rows), expected)
    assert len(layer.table.weight) == 9


def test_numbers_by_hand() -> None:
    layer = NumberEmbedding(2, DIM)
    got = layer(torch.tensor([[2.0, float("nan")]]))[0]
    weight, bias, missing = (getattr(layer, n).detach() for n in ("weight", "bias", "missing"))
    torch.testing.assert_close(got[0], 2 * weight[0] + bias[0])
    torch.testing.assert_close(got[1], missing[1])
    got.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters() if p.grad is not None)


def test_sequences_are_means() -> None:
    layer = SequenceEmbedding([3, 2], DIM)
    table = layer.table.weight
    got = layer(torch.tensor([[[1, 3, 0], [2, 0, 0]], [[0, 0, 0], [1, 2, 2]]]))
    torch.testing.assert_close(got[0, 0], (table[0] + table[2]) / 2)
    torch.testing.assert_close(got[0, 1], table[3 + 1])
    torch.testing.assert_close(got[1, 0], torch.zeros(DIM))
    torch.testing.assert_close(got[1, 1], (table[3] + 2 * table[4]) / 3)


def test_history_holds_ids_codes_and_attributes(corpus: Corpus, sids: SemanticIds) -> None:
    item = model_of(corpus, sids, features_of(sid_gate=False)).embedding.item
    index = torch.tensor([3, 17])
    one, codes, attributes = item.sequence(index).split(DIM, dim=1)
    fields = item(index, index)
    # id; author and brand; price; genres; 3 levels, prefixes, bigrams and the vector
    torch.testing.assert_close(one, fields[:, 0])
    torch.testing.assert_close(attributes, fields[:, 1] + fields[:, 2] + fields[:, 4])
    torch.testing.assert_close(codes, fields[:, -6:-1].sum(1))


def test_gate_by_hand() -> None:
    gate = SidGate(num_fields=2, dim=2)
    ids, fields = torch.tensor([[1.0, -2.0]]), torch.tensor([[[0.5, 1.0], [2.0, -1.0]]])
    with torch.no_grad():
        for parameter in gate.parameters():
            parameter.copy_(torch.linspace(-0.5, 0.6, parameter.numel()).view_as(parameter))

    def affine(layer: Any, values: np.ndarray) -> np.ndarray:
        weight, bias = (p.detach().double().numpy() for p in (layer.weight, layer.bias))
        return np.array([weight[r] @ values + bias[r] for r in range(len(weight))])

    hidden = np.maximum(affine(gate.fuse[0], np.array([0.5, 1.0, 2.0, -1.0])), 0)
    sid = affine(gate.fuse[2], hidden)
    evidence = np.maximum(affine(gate.gate[0], np.array([*sid, 1.0, -2.0, 0.7, 1.0])), 0)
    share = 1 / (1 + np.exp(-affine(gate.gate[2], evidence)[0]))
    assert 0.01 < share < 0.99
    expected = share * np.array([1.0, -2.0]) + (1 - share) * sid
    got = gate(ids, fields, torch.tensor([0.7]), torch.tensor([True]))
    np.testing.assert_allclose(got[0].detach(), expected, rtol=1e-5)
    loss = gate.transfer_loss(ids, fields, torch.tensor([0.7])).item()
    assert loss == pytest.approx(0.7 * ((sid - [1.0, -2.0]) ** 2).mean(), rel=1e-5)


def test_transfer_teaches_the_sid_and_not_the_id(corpus: Corpus, sids: SemanticIds) -> None:
    config = features_of()
    model = model_of(corpus, sids, config)
    batch, _ = batch_of(corpus, config, model)
    loss = model.embedding.auxiliary_loss(batch)
    loss.backward()
    assert loss > 0
    item = model.embedding.item
    assert item.id is not None
    assert item.id.weight.grad is None
    assert item.sid.levels is not None
    assert item.sid.levels.weight.grad is not None
    assert item.sid.levels.weight.grad.abs().sum() > 0
    # weights are the popularity among training rows
    count = np.bincount(impression_rows(corpus, "train").item_idx, minlength=ITEMS)
    expected = np.where(count >= 2, np.log1p(count) / np.log1p(count.max()), 0)
    np.testing.assert_allclose(item.rows.popularity[1:], expected, rtol=1e-6)
    off = model_of(corpus, sids, features_of(sid_gate=False))
    assert off.embedding.auxiliary_loss(batch) == 0


def test_dropped_ids_are_unknown_in_training_only(corpus: Corpus, sids: SemanticIds) -> None:
    model = model_of(corpus, sids, features_of(id_dropout=0.3))
    item = model.embedding.item
    every = torch.arange(1, ITEMS + 1).repeat(200)
    unknown = item.rows.id.new_zeros(1)
    for side in (item, model.embedding.user):
        assert side.id is not None
        index = every if side is item else every % len(side.rows.id)
        side.gate = None  # the bare id comes first
        ids = side.train()(index, index)[:, 0]
        dropped = (ids == side.id(unknown)).all(1)
        known = side.rows.id[index] > 0
        assert float(dropped[known].float().mean()) == pytest.approx(0.3, abs=0.02)
        torch.testing.assert_close(ids[~dropped], side.id(side.rows.id[index])[~dropped])
        ids = side.eval()(index, index)[:, 0]
        torch.testing.assert_close(ids, side.id(side.rows.id[index]))


def test_bigrams_tell_pairs_and_their_places_apart() -> None:
    codes = np.array([[1, 2, 1], [1, 2, 3], [0, 1, 2], [1, 2, 1]])
    first, second = bigram_hashes(codes, 2).T
    assert first[0] == first[1] == first[3]
    assert second[0] == second[3]
    pairs = [first[0], first[2], second[0], second[1], second[2]]
    assert len(set(pairs)) == 5  # (1, 2) at another place is another pair


def test_static_shapes_change_nothing(corpus: Corpus, sids: SemanticIds) -> None:
    config = features_of()
    model = model_of(corpus, sids, config).eval()
    batch, _ = batch_of(corpus, config, model)
    expected = model(batch)
    model.embedding.static_shapes = True
    torch.testing.assert_close(model(batch), expected)


def test_sizes_are_as_announced(corpus: Corpus, sids: SemanticIds, tmp_path: Path) -> None:
    config = features_of(tmp_path / "v.npy")
    embedding = model_of(corpus, sids, config).embedding
    batch, _ = batch_of(corpus, config, model_of(corpus, sids, config))
    got, rows = embedding(batch), len(batch.user_B)
    places = int((batch.history_BT > 0).sum())
    shapes = [tuple(part.shape) for part in got[:-1]]
    assert shapes == [
        (rows, embedding.num_user_fields, DIM),
        (rows, embedding.num_item_fields, DIM),
        (rows, embedding.num_cross_fields, DIM),
        (rows, embedding.num_dense),
        (rows, embedding.history_dim),
        (places, embedding.history_dim),
        (places, embedding.num_levels),
    ]
    # id, brand, genres, author, price, content, 3 levels, prefixes, bigrams, vector
    assert embedding.num_item_fields == 12
    # id, age, fans, likes, hour, weekday, device, bid, 3 levels, prefixes, bigrams, vector
    assert embedding.num_user_fields == 14
    assert embedding.history_dim == 3 * DIM


@pytest.mark.parametrize(
    "off",
    [
        {},
        {"ids": False},
        {"propose": False},
        {"fields": []},
        {"time_of_day": False},
        {"user_sids": False},
        {"item_sids": False},
        {"attribute_history": False},
        {"sid_bigrams": False},
        {"sid_vector": False},
        {"sid_gate": False},
    ],
    ids=str,
)
def test_every_table_gets_a_gradient(
    corpus: Corpus, sids: SemanticIds, tmp_path: Path, off: dict[str, Any]
) -> None:
    config = features_of(tmp_path / "v.npy", **off)
    model = model_of(corpus, sids, config)
    batch, label = batch_of(corpus, config, model)
    loss = binary_cross_entropy_with_logits(model(batch), label)
    (loss + model.embedding.auxiliary_loss(batch)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
        assert torch.isfinite(parameter.grad).all(), name
    everything = model_of(corpus, sids, features_of(tmp_path / "v.npy"))
    fewer = sum(p.numel() for p in model.parameters())
    assert (fewer < sum(p.numel() for p in everything.parameters())) == bool(off)


def test_context_reaches_the_score(corpus: Corpus, sids: SemanticIds) -> None:
    config = features_of()
    model = model_of(corpus, sids, config).eval()
    batch, _ = batch_of(corpus, config, model)
    for changed in (
        batch._replace(category_BC=batch.category_BC.roll(1, 0)),
        batch._replace(number_BC=batch.number_BC + 1),
    ):
        assert not torch.allclose(model(batch), model(changed))


def test_exports_with_any_number_of_rows(corpus: Corpus, sids: SemanticIds, tmp_path: Path) -> None:
    config = features_of(tmp_path / "v.npy")
    model = model_of(corpus, sids, config).eval()
    batch, _ = batch_of(corpus, config, model)
    model.embedding.static_shapes = True
    rows, length = torch.export.Dim("rows"), torch.export.Dim("length")
    each: tuple[Any, ...] = (*[{0: rows}] * 2, {0: rows, 1: length}, *[{0: rows}] * 3)
    shapes = Batch(*each)
    exported = torch.export.export(model, (batch,), dynamic_shapes=(shapes,)).module()
    few = Batch(*(column[:7] for column in batch))._replace(history_BT=batch.history_BT[:7, 1:])
    torch.testing.assert_close(exported(few), model(few))


def test_trained_schema_travels_with_the_model(
    corpus: Corpus, sids: SemanticIds, make_sids: Callable[..., SemanticIds], tmp_path: Path
) -> None:
    values = {
        "features": features_of(tmp_path / "v.npy").as_json(),
        "model": {"embedding_dim": DIM, "hidden_dims": [8]},
        "epochs": 1,
    }
    config = build_config(RankingConfig, values, "ranking")
    out = tmp_path / "ranker"
    manifest = train_ranker(config, corpus, sids, out)
    assert manifest.metrics["field_hash_collisions"]["item.author"] > 1
    ranker = load_ranker(out, corpus, sids)
    rows = impression_rows(corpus, "test")
    with_context = ranker.score_rows(rows)
    assert np.isfinite(with_context).all()
    again = load_ranker(out, corpus, sids).score_rows(rows, batch_size=13)
    np.testing.assert_allclose(again, with_context, atol=1e-6)
    unknown = ranker.score(rows.user_idx, rows.item_idx, rows.history_end)
    assert not np.allclose(unknown, with_context)
    np.save(tmp_path / "v.npy", np.zeros((ITEMS, 3), np.float32))
    with pytest.raises(ValueError, match=r"content: .*v.npy is .*, the model was trained with"):
        load_ranker(out, corpus, sids)
