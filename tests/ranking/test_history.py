"""Pooling of the history against plain loops."""

import torch
from torch import Tensor

from dasrec.ranking.history import HistoryPooling, TargetAttention
from dasrec.ranking.inputs import Inputs


def attend_one(layer: TargetAttention, target: Tensor, history: Tensor, same: Tensor) -> Tensor:
    """The formula of the docstring, one history item after the other (no padding)."""
    pooled = torch.zeros_like(target)
    assert layer.same is not None
    for ago, (item, matches) in enumerate(zip(history.flip(0), same.flip(0), strict=True), 1):
        hidden = (
            layer.history.weight @ item
            + layer.target.weight @ target
            + layer.product.weight @ (item * target)
            + layer.same.weight @ matches
            + layer.position[-ago]
            + layer.history.bias
        )
        pooled += (layer.weight.weight[0] @ hidden.relu() + layer.weight.bias) * item
    return pooled


def test_attention_equals_a_loop_and_ignores_padding() -> None:
    torch.manual_seed(0)
    layer = TargetAttention(item_dim=5, hidden_dim=7, num_levels=2, max_history=6)
    torch.nn.init.normal_(layer.position)
    target_BD, history_BTD = torch.randn(3, 5), torch.randn(3, 4, 5)
    same_BTL = torch.randint(0, 2, (3, 4, 2)).float()
    lengths = [4, 2, 0]
    real_BT = torch.arange(4) >= 4 - torch.tensor(lengths)[:, None]
    got = layer(target_BD, history_BTD, same_BTL, real_BT)
    for row, length in enumerate(lengths):
        expected = attend_one(
            layer, target_BD[row], history_BTD[row, 4 - length :], same_BTL[row, 4 - length :]
        )
        torch.testing.assert_close(got[row], expected)
    assert (got[2] == 0).all()


def test_the_mean_leaves_padding_out_and_makes_one_field_per_width() -> None:
    torch.manual_seed(0)
    history_BTE, lengths = torch.randn(3, 4, 6), [4, 1, 0]
    real_BT = torch.arange(4) >= 4 - torch.tensor(lengths)[:, None]
    user_BUD, none = torch.randn(3, 2, 3), torch.zeros(3, 0)
    inputs = Inputs(user_BUD, torch.randn(3, 5, 3), none, none, none, history_BTE, none, real_BT)
    got = HistoryPooling(None)(inputs)
    torch.testing.assert_close(got.user_BUD[:, :2], user_BUD)
    for row, length in enumerate(lengths):
        items = history_BTE[row, 4 - length :]
        mean = items.sum(0) / max(length, 1)
        torch.testing.assert_close(got.user_BUD[row, 2:].flatten(), mean)
