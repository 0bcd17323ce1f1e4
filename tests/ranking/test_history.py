"""Pooling of the history against plain loops."""

import pytest
import torch
from torch import Tensor

from dasrec.ranking.history import HistoryPooling, TargetAttention
from dasrec.ranking.inputs import Inputs
from dasrec.ranking.places import lay_out


def attend_one(layer: TargetAttention, target: Tensor, history: Tensor, same: Tensor) -> Tensor:
    """The formula of the docstring, one history item after the other (the latest is the last)."""
    pooled = torch.zeros_like(target)
    assert layer.same is not None
    for ago, (item, matches) in enumerate(zip(history.flip(0), same.flip(0), strict=True)):
        hidden = (
            layer.history.weight @ item
            + layer.target.weight @ target
            + layer.product.weight @ (item * target)
            + layer.same.weight @ matches
            + layer.position[ago]
            + layer.history.bias
        )
        pooled += (layer.weight.weight[0] @ hidden.relu() + layer.weight.bias) * item
    return pooled


@pytest.mark.parametrize("padded", [False, True])
def test_attention_equals_a_loop_and_ignores_padding(padded: bool) -> None:
    torch.manual_seed(0)
    layer = TargetAttention(item_dim=5, hidden_dim=7, num_levels=2, max_history=6)
    torch.nn.init.normal_(layer.position)
    target_BE, item_IE = torch.randn(3, 5), torch.randn(9, 5)
    same_IL = torch.randint(0, 2, (9, 2)).float()
    histories = [[3, 1, 7, 3], [8, 2], []]
    item_P, places = lay_out(pad(histories), padded=padded)
    assert len(item_P) == (12 if padded else 6)
    got = layer(target_BE, item_IE[item_P], same_IL[item_P], places)
    for row, items in enumerate(histories):
        expected = attend_one(layer, target_BE[row], item_IE[items], same_IL[items])
        torch.testing.assert_close(got[row], expected)
    assert (got[2] == 0).all()


@pytest.mark.parametrize("padded", [False, True])
def test_the_mean_leaves_padding_out_and_makes_one_field_per_width(padded: bool) -> None:
    torch.manual_seed(0)
    histories, item_IE = [[3, 1, 7, 3], [8], []], torch.randn(9, 6)
    item_P, places = lay_out(pad(histories), padded=padded)
    user_BUD, none = torch.randn(3, 2, 3), torch.zeros(3, 0)
    inputs = Inputs(user_BUD, torch.randn(3, 5, 3), none, none, none, item_IE[item_P], none, places)
    got = HistoryPooling(None)(inputs)
    torch.testing.assert_close(got.user_BUD[:, :2], user_BUD)
    for row, items in enumerate(histories):
        mean = item_IE[items].sum(0) / max(len(items), 1)
        torch.testing.assert_close(got.user_BUD[row, 2:].flatten(), mean)


def pad(histories: list[list[int]]) -> Tensor:
    longest = max(map(len, histories))
    return torch.tensor([[0] * (longest - len(items)) + items for items in histories])
