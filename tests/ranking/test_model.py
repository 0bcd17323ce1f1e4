"""The whole model: every backbone on every history."""

from typing import Any

import pytest
import torch

from dasrec.ranking import CtrModel, FeatureConfig, ModelConfig, build_schema
from dasrec.ranking.backbones import BACKBONES
from dasrec.ranking.row_tensors import to_tensors
from dasrec.ranking.rows import Batch, HistorySource, impression_rows
from dasrec.ranking.tables import build_tables

CASES = [(backbone, "attention") for backbone in BACKBONES]
CASES += [("dcnv2", "mean"), ("dcnv2", "none"), ("finalmlp", "mean")]


def build(world: Any, values: dict[str, Any]) -> tuple[CtrModel, Batch, torch.Tensor]:
    features = FeatureConfig(hash_size=512, max_history=8)
    train = impression_rows(world.corpus, "train")
    schema = build_schema(features, world.corpus, train, world.sids)
    tables = build_tables(features, schema, world.corpus, world.sids)
    torch.manual_seed(0)
    model = CtrModel(ModelConfig(embedding_dim=4, dropout=0.0, **values), features, schema, tables)
    rows = to_tensors(train, schema, torch.device("cpu"))
    source = HistorySource(world.corpus, 8, torch.device("cpu"))
    return model, source.batch(rows.user_M, rows.item_M, rows.end_M), rows.label_M


@pytest.mark.parametrize(("backbone", "history"), CASES)
def test_every_parameter_gets_a_gradient(small: Any, backbone: str, history: str) -> None:
    model, batch, label_B = build(small, {"backbone": backbone, "history": history})
    torch.nn.functional.binary_cross_entropy_with_logits(model(batch), label_B).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert (model.history is None) == (history == "none")


@pytest.mark.parametrize(("backbone", "history"), CASES)
def test_static_shapes_give_the_same_logits(small: Any, backbone: str, history: str) -> None:
    """And a row's logit does not depend on the longest history beside it."""
    model, batch, _ = build(small, {"backbone": backbone, "history": history})
    expected = model.eval()(batch)
    model.embedding.static_shapes = True
    torch.testing.assert_close(model(batch), expected)
    short = (batch.history_BT > 0).sum(1) <= 2
    assert 0 < short.sum() < len(short)
    part = Batch(*(column[short] for column in batch))
    torch.testing.assert_close(
        model(part._replace(history_BT=part.history_BT[:, -2:])), expected[short]
    )
