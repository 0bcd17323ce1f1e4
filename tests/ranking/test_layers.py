"""Attention, cross network and prefix matching against plain loops."""

import torch
from torch import Tensor, nn

from dasrec.ranking.layers import CrossNetwork, TargetAttention, prefix_matches


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


def test_cross_network_equals_its_formula() -> None:
    torch.manual_seed(0)
    layer = CrossNetwork(4, 2)
    x0 = torch.randn(3, 4)
    first, second = layer.layers
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    x1 = x0 * (x0 @ first.weight.T + first.bias) + x0
    x2 = x0 * (x1 @ second.weight.T + second.bias) + x1
    torch.testing.assert_close(layer(x0), x2)


def test_prefix_matches_leave_padding_out() -> None:
    target = torch.tensor([[1, 4]])
    history = torch.tensor([[[0, 0], [1, 3], [1, 4], [2, 5]]])
    assert prefix_matches(target, history).tolist() == [[[0, 0], [1, 0], [1, 1], [0, 0]]]
    assert prefix_matches(torch.zeros(1, 2, dtype=torch.long), history)[0, 0].tolist() == [0, 0]
