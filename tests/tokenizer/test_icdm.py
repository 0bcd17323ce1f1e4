"""ICDM: its losses against their formulas, and whether it does what it is for."""

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from dasrec.core import Corpus, build_config
from dasrec.core.prepare import PrepareConfig, prepare
from dasrec.core.synthetic import SyntheticConfig, generate
from dasrec.tokenizer import DasConfig, IcdmConfig
from dasrec.tokenizer.clicks import Clicks
from dasrec.tokenizer.icdm import Factors, Icdm
from dasrec.tokenizer.pairs import Batch, PairSampler
from dasrec.tokenizer.report import linear_r2
from dasrec.tokenizer.statistics import PopularityStatistics, popularity_statistics


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def small_clicks(
    users: list[int], items: list[int], at_user: list[int], at_item: list[int], clicked: np.ndarray
) -> Clicks:
    ids = [np.array(column) for column in (users, items, at_user, at_item)]
    none = np.zeros((2, 0), np.int64)
    return Clicks.of(Batch(ids[0], ids[1], ids[2], ids[3], clicked, none, none))


def test_losses_are_their_formulas() -> None:
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    log_q = np.log(np.array([0.4, 0.3, 0.2, 0.1], np.float32))
    statistics = PopularityStatistics(
        rng.normal(size=(4, 3)).astype(np.float32), rng.normal(size=(5, 2)).astype("f4"), log_q
    )
    config = IcdmConfig(embedding_dim=8, tau=0.3, sim=0.5, orth=2.0, reg=3.0)
    icdm = Icdm(config, statistics, factor_dim=16)
    users, items = [4, 0, 2], [1, 3, 2, 0]  # distinct ones of the batch, in its order
    user, item = icdm.users(torch.tensor(users)), icdm.items(torch.tensor(items))
    at_user, at_item = [0, 0, 1, 2], [0, 1, 0, 2]  # click pairs: user 4 twice, item 1 twice
    # User 2 also clicked item 1, and user 0 item 3, outside the batch; item 0 is nobody's here.
    clicked = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0]], bool)
    clicks = small_clicks(users, items, at_user, at_item, clicked)
    item_ids = [items[k] for k in at_item]
    with torch.no_grad():
        losses = icdm.losses(user, item, clicks)
        user, item = (Factors(*(part.detach() for part in side)) for side in (user, item))

    def softmax_loss(u: Tensor, i: Tensor, log_q_of: list[float]) -> float:
        total = 0.0
        for n in range(4):
            scores = [
                math.exp(cosine(u[at_user[n]], i[at_item[m]]) / 0.3 - log_q_of[m])
                for m in range(4)
                if m == n or not clicked[at_user[n], at_item[m]]
            ]
            own = math.exp(cosine(u[at_user[n]], i[at_item[n]]) / 0.3 - log_q_of[n])
            total -= math.log(own / sum(scores)) / 4
        return total

    expected = {
        "bias": softmax_loss(user.fused_BD, item.fused_BD, [float(log_q[k]) for k in item_ids]),
        "unbias": softmax_loss(user.true_BD, item.true_BD, [0.0] * 4),
        "sim": 0.0,
        "orth": 0.0,
        "reg": 0.0,
    }
    for side, rows in ((user, 3), (item, 4)):
        for n in range(rows):
            expected["sim"] += 0.5 * (1 - cosine(side.bias_BD[n], side.reference_BD[n])) / rows
            expected["orth"] += 2 * cosine(side.true_BD[n], side.bias_BD[n]) ** 2 / rows
            expected["reg"] += 3 * float(side.anchored_B[n] - side.anchor_B[n]) ** 2 / rows
    assert {name: value.item() for name, value in losses.items()} == pytest.approx(
        expected, rel=1e-4
    )
    torch.testing.assert_close(item.anchor_B, torch.from_numpy(statistics.items_IS[items, 0]))


def test_without_debiasing_there_is_one_loss_and_one_vector() -> None:
    statistics = PopularityStatistics(
        np.zeros((4, 2), np.float32), np.zeros((4, 2), np.float32), np.zeros(4, np.float32)
    )
    icdm = Icdm(IcdmConfig(variant="none"), statistics, 6)
    side = icdm.users(torch.arange(4))
    rows = list(range(4))
    clicks = small_clicks(rows, rows, rows, rows, np.eye(4, dtype=bool))
    assert set(icdm.losses(side, side, clicks)) == {"bias"}
    assert icdm.target(side) is side.fused_BD
    assert Icdm(IcdmConfig(), statistics, 6).target(side) is side.true_BD


def synthetic(path: Path, seed: int) -> tuple[Corpus, dict[str, np.ndarray]]:
    """A click log whose users follow taste and the crowd, with the truth in the corpus' order."""
    config = SyntheticConfig(num_users=800, num_items=300, sessions_per_user=10.0)
    generate(config, path / "raw", seed=seed)
    values = {
        "interactions": {"path": "impressions.parquet", "columns": {"label": "click"}},
        "items": {"path": "items.parquet"},
        "users": {"path": "users.parquet"},
        "positive_label": 1.0,
    }
    corpus = prepare(build_config(PrepareConfig, values, "test"), path / "raw", path / "corpus")
    truth = {}
    for side, table in (("item", corpus.items), ("user", corpus.users)):
        raw = pl.read_parquet(path / "raw" / f"{side}s.parquet")[f"{side}_id"].to_list()
        place = {external: row for row, external in enumerate(raw)}
        order = [place[external] for external in table[f"{side}_id"].to_list()]
        for name in (path / "raw" / "truth").glob(f"{side}_*.npy"):
            truth[name.stem] = np.load(name)[order]
    return corpus, truth


def train_factors(corpus: Corpus, config: IcdmConfig, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of users and items that ICDM alone ends up with."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    icdm = Icdm(config, popularity_statistics(corpus), DasConfig().code_dim)
    tables = [p for n, p in icdm.named_parameters() if n.endswith("ids.weight")]
    ids = {"params": tables, "lr": config.learning_rate}
    rest = {"params": [p for n, p in icdm.named_parameters() if "ids." not in n], "lr": 1e-3}
    optimizer = torch.optim.Adam([ids, rest])
    sampler = PairSampler(corpus, window=10, damping=0.5)
    done = 0
    while done < steps:
        for batch in sampler.batches(sampler.epoch(rng), 256, rng):
            clicks = Clicks.of(batch)
            users = icdm.users(clicks.users[: clicks.num_users])
            losses = icdm.losses(users, icdm.items(clicks.items), clicks)
            optimizer.zero_grad()
            torch.stack(list(losses.values())).sum().backward()
            optimizer.step()
            done += 1
    with torch.no_grad():
        targets = [
            icdm.target(t(torch.arange(len(t.statistics_NS)))) for t in (icdm.users, icdm.items)
        ]
    users, items = (torch.nn.functional.normalize(t).numpy() for t in targets)
    return users, items


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_true_factors_lose_the_popularity_and_keep_the_interest(tmp_path: Path, seed: int) -> None:
    """Against the vectors of the same model without debiasing.

    Both are trained on the same clicks with the same budget. The baseline's one loss is
    logQ-corrected: a plain in-batch softmax would already divide popularity out, and there would
    be nothing to remove.
    """
    corpus, truth = synthetic(tmp_path, seed)
    count = corpus.train_item_count
    items = np.flatnonzero(count)
    users = np.flatnonzero(np.diff(corpus.train_sequences.starts))
    liking = truth["user_interest"][users] @ truth["item_interest"][items].T
    popularity_r2, interest_r2, crowd, taste = {}, {}, {}, {}
    for variant in ("none", "cd2an"):
        config = IcdmConfig(variant=variant)
        c_users, c_items = train_factors(corpus, config, steps=300)
        popularity_r2[variant] = linear_r2(c_items[items], np.log(count[items]))
        interest = truth["user_interest"][users]
        interest_r2[variant] = np.mean([linear_r2(c_users[users], column) for column in interest.T])
        scores = c_users[users] @ c_items[items].T
        crowd[variant] = np.mean([np.corrcoef(row, np.log(count[items]))[0, 1] for row in scores])
        taste[variant] = np.mean(
            [np.corrcoef(row, true)[0, 1] for row, true in zip(scores, liking, strict=True)]
        )
    assert popularity_r2["none"] > 0.6  # there is something to remove
    assert popularity_r2["cd2an"] < popularity_r2["none"] / 4
    assert crowd["cd2an"] < crowd["none"] / 2
    assert interest_r2["cd2an"] > interest_r2["none"]
    assert taste["cd2an"] > taste["none"] - 0.02  # not at taste's expense
