import numpy as np
import pytest
import torch

from dasrec.tokenizer.balance import balanced, sinkhorn
from dasrec.tokenizer.config import AutoencoderConfig
from dasrec.tokenizer.quantizer import ResidualQuantizer, squared_distances


def test_marginals_are_even() -> None:
    cost = torch.from_numpy(np.random.default_rng(0).random((60, 12)))
    plan = sinkhorn(cost, epsilon=0.05, iterations=500)
    torch.testing.assert_close(plan.sum(0), torch.full((12,), 1 / 12, dtype=torch.float64))
    torch.testing.assert_close(plan.sum(1), torch.full((60,), 1 / 60, dtype=torch.float64))


def test_plan_is_that_of_normalising_the_matrix_in_turn() -> None:
    """The form of public code: columns, then rows, of exp(-cost / epsilon)."""
    cost = torch.from_numpy(np.random.default_rng(1).random((30, 5)))
    plan = torch.exp(-cost / 0.1)
    for _ in range(50):
        plan = plan / plan.sum(0, keepdim=True) / 5
        plan = plan / plan.sum(1, keepdim=True) / 30
    torch.testing.assert_close(sinkhorn(cost, 0.1), plan)


def test_balanced_codes_by_hand() -> None:
    """Two codewords, four rows: rows 0 and 1 gain most from codeword 0."""
    distance = torch.tensor([[0.0, 9.0], [1.0, 7.0], [2.0, 5.0], [3.0, 4.0]])
    assert balanced(distance, 0.05).tolist() == [0, 0, 1, 1]


def test_small_epsilon_neither_overflows_nor_empties_a_row() -> None:
    plan = sinkhorn(torch.rand(50, 8) * 2 - 1, 0.003)
    assert torch.isfinite(plan).all()
    torch.testing.assert_close(plan.sum(1), torch.full((50,), 1 / 50, dtype=torch.float64))


def test_a_crowd_is_spread_in_training_and_goes_to_the_nearest_after() -> None:
    torch.manual_seed(0)
    config = AutoencoderConfig(level_sizes=(4, 8), code_dim=3, sinkhorn="last")
    quantizer = ResidualQuantizer(config)
    h = 0.01 * torch.randn(64, 3)
    codes = quantizer(h).codes_BL
    assert torch.bincount(codes[:, 1], minlength=8).max() <= 12  # 8 each if spread evenly
    first = squared_distances(h, quantizer.codebooks[0].detach()).argmin(1)
    assert torch.equal(codes[:, 0], first)
    nearest = quantizer.encode(h)[0]
    assert torch.bincount(nearest[:, 1], minlength=8).max() > 12


@pytest.mark.parametrize("rows", [1, 3])
def test_fewer_rows_than_codewords(rows: int) -> None:
    plan = sinkhorn(torch.rand(rows, 7), 0.003)
    assert torch.isfinite(plan).all()
