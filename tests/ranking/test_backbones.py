"""Every backbone against its paper's formula, written as plain loops."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from dasrec.core.config import build_config
from dasrec.ranking.backbones import BACKBONES, FieldSizes, ModelConfig
from dasrec.ranking.backbones.dcnv2 import CrossNetwork, DcnV2
from dasrec.ranking.backbones.deepfm import DeepFm, pairwise_products
from dasrec.ranking.backbones.finalmlp import BilinearFusion, FeatureGate, FinalMlp
from dasrec.ranking.inputs import Inputs
from dasrec.ranking.layers import Dice
from dasrec.ranking.places import lay_out

SIZES = FieldSizes(user=3, item=2, cross=1, dense=4, dim=6)
CONFIG = ModelConfig(hidden_dims=(10, 8), fusion_heads=2, gate_dim=5, dropout=0.0)


def some_inputs(rows: int = 5) -> Inputs:
    torch.manual_seed(0)
    user, item, cross = (
        torch.randn(rows, count, SIZES.dim) for count in (SIZES.user, SIZES.item, SIZES.cross)
    )
    dense, unused = torch.randn(rows, SIZES.dense), torch.zeros(rows, 0)
    places = lay_out(torch.zeros(rows, 0), padded=False)[1]
    return Inputs(user, item, cross, dense, unused, unused, unused, places)


def side_by_side(inputs: Inputs, row: int) -> Tensor:
    parts = (inputs.user_BUD, inputs.item_BID, inputs.cross_BXD, inputs.dense_BN)
    return torch.cat([part[row].flatten() for part in parts])


def through(layers: nn.Sequential, x: Tensor) -> Tensor:
    """An MLP with ReLU, by matrix products."""
    for layer in layers:
        if isinstance(layer, nn.Linear):
            x = (layer.weight @ x + layer.bias).relu()
    return x


@pytest.mark.parametrize("rank", [None, 3])
def test_cross_network_equals_its_formula(rank: int | None) -> None:
    torch.manual_seed(0)
    network = CrossNetwork(4, 2, rank)
    x0 = torch.randn(3, 4)
    expected = x0
    for layer in network.layers:
        parts = [layer] if isinstance(layer, nn.Linear) else list(layer.children())
        matrix, last = torch.eye(4), parts[-1]
        for part in parts:
            assert isinstance(part, nn.Linear)
            matrix = part.weight @ matrix
        assert isinstance(last, nn.Linear)
        assert torch.linalg.matrix_rank(matrix) == (rank or 4)
        expected = x0 * (expected @ matrix.T + last.bias) + expected
    torch.testing.assert_close(network(x0), expected)


def test_dcnv2_reads_the_cross_network_and_the_mlp() -> None:
    inputs, model = some_inputs(), DcnV2(CONFIG, SIZES)
    got = model(inputs)
    for row in range(5):
        x = side_by_side(inputs, row)
        joint = torch.cat([model.cross(x[None])[0], through(model.mlp, x)])
        expected = model.output.weight[0] @ joint + model.output.bias[0]
        torch.testing.assert_close(got[row], expected)


def test_deepfm_sums_first_order_pairs_and_mlp() -> None:
    inputs, model = some_inputs(), DeepFm(CONFIG, SIZES)
    got = model(inputs)
    for row in range(5):
        x = side_by_side(inputs, row)
        fields = [*inputs.user_BUD[row], *inputs.item_BID[row], *inputs.cross_BXD[row]]
        expected = model.first_order.weight[0] @ x + model.first_order.bias[0]
        expected = expected + model.output.weight[0] @ through(model.mlp, x)
        for first, second in itertools.combinations(fields, 2):
            expected = expected + first @ second
        torch.testing.assert_close(got[row], expected)


def test_pairs_of_one_field_are_nothing() -> None:
    torch.testing.assert_close(pairwise_products(torch.randn(4, 1, 3)), torch.zeros(4))


def test_bilinear_fusion_equals_a_loop_over_heads() -> None:
    torch.manual_seed(0)
    layer = BilinearFusion(6, 3)
    x, y = torch.randn(4, 6), torch.randn(4, 6)
    got = layer(x, y)
    for row in range(4):
        expected = layer.first.weight[0] @ x[row] + layer.first.bias[0]
        expected = expected + layer.second.weight[0] @ y[row]
        for head in range(3):
            part = slice(2 * head, 2 * head + 2)
            pair = torch.einsum("i,ij,j", x[row, part], layer.pairs_HCC[head], y[row, part])
            expected = expected + pair
        torch.testing.assert_close(got[row], expected)


def test_gate_multiplies_by_twice_a_sigmoid() -> None:
    torch.manual_seed(0)
    gate = FeatureGate(3, 5, 7)
    context, x = torch.randn(2, 3), torch.randn(2, 7)
    first, _, second = gate.gate
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    for row in range(2):
        hidden = (first.weight @ context[row] + first.bias).relu()
        factor = 2 / (1 + torch.exp(-(second.weight @ hidden + second.bias)))
        torch.testing.assert_close(gate(context, x)[row], factor * x[row])


def test_finalmlp_gates_by_the_user_and_by_the_item() -> None:
    inputs, model = some_inputs(), FinalMlp(CONFIG, SIZES)
    got = model(inputs)
    for row in range(5):
        x = side_by_side(inputs, row)
        one = model.user_gate(inputs.user_BUD[row].flatten(), x)
        two = model.item_gate(inputs.item_BID[row].flatten(), x)
        streams = through(model.user_mlp, one), through(model.item_mlp, two)
        torch.testing.assert_close(got[row], model.fusion(*(s[None] for s in streams))[0])


def test_dice_equals_its_formula_in_training_and_in_use() -> None:
    torch.manual_seed(0)
    layer = Dice(3)
    nn.init.normal_(layer.alpha_H)
    s = torch.randn(64, 3) * 2 + 1
    for mean, variance in (
        (s.mean(0), s.var(0, unbiased=False)),
        (0.1 * s.mean(0), 0.9 + 0.1 * s.var(0)),  # running averages after one batch
    ):
        p = 1 / (1 + torch.exp(-(s - mean) / (variance + 1e-8).sqrt()))
        torch.testing.assert_close(layer(s), p * s + (1 - p) * layer.alpha_H * s)
        layer.eval()


@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_every_parameter_and_every_input_gets_a_gradient(backbone: str) -> None:
    inputs = some_inputs(32)
    read = inputs[:4]
    for part in read:
        part.requires_grad_()
    model = BACKBONES[backbone](CONFIG, SIZES)
    logit_B = model(inputs)
    assert logit_B.shape == (32,)
    logit_B.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    for part in read:
        assert part.grad is not None
        assert (part.grad != 0).any(0).all()


def test_configs_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(ValueError, match="din needs history: attention, got mean"):
        build_config(ModelConfig, {"backbone": "din", "history": "mean"}, "test")
    values = {"backbone": "finalmlp", "hidden_dims": [16, 10], "fusion_heads": 4}
    with pytest.raises(ValueError, match=r"must divide the last of hidden_dims \(10\), got 4"):
        build_config(ModelConfig, values, "test")
    with pytest.raises(ValueError, match="finalmlp gates by the user's"):
        FinalMlp(CONFIG, SIZES._replace(user=0))
