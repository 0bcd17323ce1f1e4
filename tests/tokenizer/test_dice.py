"""DICE's terms against loops written from their formulas."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dasrec.tokenizer import IcdmConfig
from dasrec.tokenizer.clicks import Clicks
from dasrec.tokenizer.icdm import Factors, Icdm, dice, distance_correlation
from dasrec.tokenizer.pairs import Batch
from dasrec.tokenizer.statistics import PopularityStatistics

TAU = 0.3


def szekely(x: np.ndarray, y: np.ndarray) -> float:
    """dCor by the definition: every element of the double-centred distances by itself."""
    n = len(x)

    def centred(x: np.ndarray) -> np.ndarray:
        d = np.array([[np.linalg.norm(a - b) for b in x] for a in x])
        grand = d.mean()
        return np.array(
            [[d[j, k] - d[j].mean() - d[:, k].mean() + grand for k in range(n)] for j in range(n)]
        )

    a, b = centred(x.astype(np.float64)), centred(y.astype(np.float64))
    covariance, spread_x, spread_y = ((p * q).sum() / n**2 for p, q in ((a, b), (a, a), (b, b)))
    return math.sqrt(covariance) / math.sqrt(math.sqrt(spread_x) * math.sqrt(spread_y))


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_distance_correlation_is_the_definition(scale: float) -> None:
    rng = np.random.default_rng(0)
    x = (scale * rng.normal(size=(40, 5))).astype(np.float32)
    mixed = (x @ rng.normal(size=(5, 3)) + scale * rng.normal(size=(40, 3))).astype(np.float32)
    for y in (mixed, x[:, :1] ** 2, rng.normal(size=(40, 3)).astype(np.float32)):
        measured = distance_correlation(torch.from_numpy(x), torch.from_numpy(y))
        assert measured.item() == pytest.approx(szekely(x, y), rel=1e-4)


def test_distance_correlation_of_a_shifted_and_stretched_copy_is_one() -> None:
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    assert distance_correlation(x, 3 * x + 5).item() == pytest.approx(1, abs=1e-4)


def test_distance_correlation_has_a_finite_gradient_at_equal_rows() -> None:
    x = torch.ones(6, 3, requires_grad=True)
    y = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    (distance_correlation(x, y) + distance_correlation(y, y)).backward()
    assert x.grad is not None
    assert y.grad is not None
    assert x.grad.isfinite().all()
    assert y.grad.isfinite().all()


# Distinct users 0..2 and items 0..4 of a batch. Items 1 and 2 are equally popular.
LOG_Q = np.log(np.array([0.4, 0.2, 0.2, 0.15, 0.05], np.float32))
AT_USER, AT_ITEM = [0, 0, 1, 1, 2, 2], [0, 1, 2, 0, 3, 4]
CLICKED = np.zeros((3, 5), bool)
CLICKED[AT_USER, AT_ITEM] = True
CLICKED[2, 0] = True  # clicked outside of the batch


def clicks() -> Clicks:
    none = np.zeros((2, 0), np.int64)
    at_user, at_item = np.array(AT_USER), np.array(AT_ITEM)
    return Clicks.of(Batch(np.arange(3), np.arange(5), at_user, at_item, CLICKED, none, none))


def factors(rows: int, seed: int) -> Factors:
    random = torch.Generator().manual_seed(seed)
    true, bias, fused, reference = torch.randn(4, rows, 4, generator=random)
    return Factors(true, bias, fused, reference, torch.zeros(rows), torch.zeros(rows))


def score(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm())) / TAU


def log_sigma(x: float) -> float:
    return -math.log1p(math.exp(-x))


def expected(user: Factors, item: Factors, shift: int) -> dict[str, float]:
    """The terms without weights, click by click."""
    size = len(AT_USER)
    click, interest, more, less = 0.0, [], [], []
    for n, (u, i) in enumerate(zip(AT_USER, AT_ITEM, strict=True)):
        total = {
            j: score(user.true_BD[u], item.true_BD[j]) + score(user.bias_BD[u], item.bias_BD[j])
            for j in range(5)
        }
        own = math.exp(total[i] - float(LOG_Q[i]))
        others = [j for j in AT_ITEM if not CLICKED[u, j]]
        rest = sum(math.exp(total[j] - float(LOG_Q[j])) for j in others)
        click -= math.log(own / (own + rest)) / size
        j = AT_ITEM[(n + shift) % size]
        if CLICKED[u, j]:
            continue
        gap = score(user.bias_BD[u], item.bias_BD[i]) - score(user.bias_BD[u], item.bias_BD[j])
        if LOG_Q[j] > LOG_Q[i]:
            liking = score(user.true_BD[u], item.true_BD[i])
            interest.append(-log_sigma(liking - score(user.true_BD[u], item.true_BD[j])))
            more.append(-log_sigma(-gap))
        else:
            less.append(-log_sigma(gap))
    assert more or less
    disc = sum(szekely(s.true_BD.numpy(), s.bias_BD.numpy()) for s in (user, item))
    mean = {name: sum(v) / max(len(v), 1) for name, v in
            (("interest", interest), ("more", more), ("less", less))}  # fmt: skip
    conformity = mean["more"] + mean["less"]
    return {"click": click, "interest": mean["interest"], "conformity": conformity, "disc": disc}


def test_terms_are_their_formulas(monkeypatch: pytest.MonkeyPatch) -> None:
    user, item = factors(3, 1), factors(5, 2)
    config = IcdmConfig(variant="dice", tau=TAU, cause=0.5, discrepancy=2.0)
    weights = {"click": 1.0, "interest": 0.5, "conformity": 0.5, "disc": 2.0}
    for shift in range(1, 6):  # every one that the batch's size allows
        monkeypatch.setattr(torch, "randint", lambda *_, s=shift, **__: torch.tensor(s))
        losses = dice(config, user, item, clicks(), torch.from_numpy(LOG_Q))
        terms = {name: weights[name] * v for name, v in expected(user, item, shift).items()}
        assert {name: v.item() for name, v in losses.items()} == pytest.approx(terms, rel=1e-4)


def test_the_variant_gives_dices_terms_and_aligns_to_the_interests() -> None:
    zeros = np.zeros((5, 2), np.float32)
    icdm = Icdm(IcdmConfig(variant="dice"), PopularityStatistics(zeros, zeros[:3], LOG_Q), 4)
    user, item = icdm.users(torch.arange(3)), icdm.items(torch.arange(5))
    losses = icdm.losses(user, item, clicks())
    assert set(losses) == {"click", "interest", "conformity", "disc"}
    assert icdm.target(user) is user.true_BD
    torch.stack(list(losses.values())).sum().backward()
    for head in ("true", "bias"):
        gradient = getattr(icdm.items, head).ids.weight.grad
        assert gradient is not None
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0


def test_a_single_click_has_no_negative() -> None:
    none = np.zeros((2, 0), np.int64)
    one = np.zeros(1, np.int64)
    batch = Batch(one, one, one, one, np.ones((1, 1), bool), none, none)
    losses = dice(
        IcdmConfig(variant="dice"), factors(1, 0), factors(1, 1), Clicks.of(batch),
        torch.zeros(1),
    )  # fmt: skip
    assert {name: round(v.item(), 5) for name, v in losses.items()} == dict.fromkeys(losses, 0.0)
