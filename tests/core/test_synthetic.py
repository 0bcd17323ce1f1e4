import json
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from dasrec.core.synthetic import EPOCH, SyntheticConfig, generate
from dasrec.core.synthetic_log import FRESH, GAP
from dasrec.core.synthetic_words import LEAVES

CONFIG = SyntheticConfig(num_users=1500, num_items=600)
DAY = 86_400
Array = npt.NDArray[Any]


class World:
    """The files, read back, with row numbers instead of ids."""

    def __init__(self, path: Path) -> None:
        self.log = pl.read_parquet(path / "impressions.parquet")
        self.items = pl.read_parquet(path / "items.parquet")
        self.users = pl.read_parquet(path / "users.parquet")
        self.truth = {f.stem: np.load(f) for f in (path / "truth").glob("*.npy")}
        self.weights = json.loads((path / "truth" / "weights.json").read_text())
        item_row = dict(zip(self.items["item_id"], range(len(self.items)), strict=True))
        user_row = dict(zip(self.users["user_id"], range(len(self.users)), strict=True))
        self.user = self.log["user_id"].replace_strict(user_row).to_numpy()
        self.item = self.log["item_id"].replace_strict(item_row).to_numpy()
        self.time, self.position = self.log["timestamp"].to_numpy(), self.log["position"].to_numpy()
        self.click = self.log["click"].to_numpy()
        paths = {leaf.path: row for row, leaf in enumerate(LEAVES)}
        self.leaf = self.items["category"].replace_strict(paths).to_numpy()
        names = [leaf.path.split(" > ")[2] for leaf in LEAVES]
        self.complement = np.array([names.index(leaf.complement) for leaf in LEAVES])

    def session(self) -> Array:
        """Number of the visit that each impression belongs to."""
        order = np.lexsort((self.time, self.user))
        new = (np.diff(self.user[order]) != 0) | (np.diff(self.time[order]) > GAP // 2)
        number = np.empty(len(order), np.int64)
        number[order] = np.concatenate([[0], np.cumsum(new)])
        return number

    def terms(self) -> Array:
        """(M, 3) the observable terms of the click model: interest, popularity, recency."""
        truth = self.truth
        interest = (
            truth["user_interest"][self.user].astype(float) * truth["item_interest"][self.item]
        )
        crowd = truth["user_conformity"][self.user] * truth["item_popularity"][self.item]
        age = self.time - truth["item_release"][self.item]
        return np.column_stack([interest.sum(1), crowd, np.exp(-age / FRESH)])

    def intent(self) -> tuple[Array, Array, Array]:
        """What is left of the log-odds without the observable terms.

        Returns the nearest of 0, complement weight and intent weight (as 0, 1, 2), the distance
        to it, and the chance of a click where the position is looked at.
        """
        chance = self.truth["click_probability"].astype(float)
        seen = chance / self.truth["examination"][self.position]
        known = self.terms() @ [self.weights[k] for k in ("interest", "popularity", "recency")]
        rest = np.log(seen / (1 - seen)) - known + self.weights["bias"]
        levels = np.array([0.0, self.weights["complement"], self.weights["intent"]])
        distance = np.abs(rest[:, None] - levels)
        return distance.argmin(axis=1), distance.min(axis=1), seen


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    path = tmp_path_factory.mktemp("synthetic") / "raw"
    generate(CONFIG, path)
    return World(path)


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    config = SyntheticConfig(num_users=40, num_items=30)
    one, two, other = (
        generate(config, tmp_path / name, seed=seed)
        for name, seed in (("a", 5), ("b", 5), ("c", 6))
    )
    assert one.kind == "synthetic_raw"
    assert one.fingerprint == two.fingerprint
    assert one.files["impressions.parquet"] != other.files["impressions.parquet"]


def test_schema_and_sizes(world: World) -> None:
    assert dict(world.log.schema) == {
        "user_id": pl.String,
        "item_id": pl.String,
        "timestamp": pl.Int64,
        "position": pl.Int16,
        "click": pl.Int8,
    }
    assert world.items.columns == [
        "item_id",
        "title",
        "category",
        "brand",
        "description",
        "price",
    ]
    assert world.users.columns == ["user_id", "age_group", "gender", "region", "preference"]
    assert (len(world.users), len(world.items)) == (1500, 600)
    for table in (world.log, world.items, world.users):
        assert table.null_count().sum_horizontal()[0] == 0
    assert world.items["item_id"][41] == "I0042"
    assert world.items["category"].str.count_matches(" > ").unique().to_list() == [2]
    assert (np.diff(world.time) >= 0).all()
    assert world.time.min() >= EPOCH
    assert world.time.max() < EPOCH + CONFIG.days * DAY
    assert 0.15 < world.click.mean() < 0.25
    assert set(world.position) == set(range(10))
    sizes = {"user_interest": 1500, "user_conformity": 1500, "examination": 10}
    sizes |= {"item_interest": 600, "item_popularity": 600, "item_release": 600}
    sizes |= {"click_probability": len(world.log)}
    assert {name: len(values) for name, values in world.truth.items()} == sizes
    assert world.truth["user_conformity"].min() >= 0


def test_time_orders_a_user_and_slates_do_not_repeat(world: World) -> None:
    order = np.lexsort((world.time, world.user))
    same_user = np.diff(world.user[order]) == 0
    assert (np.diff(world.time[order])[same_user] > 0).all()  # no ties
    slots = pl.DataFrame({"session": world.session(), "item": world.item, "p": world.position})
    assert not slots.select("session", "item").is_duplicated().any()
    assert not slots.select("session", "p").is_duplicated().any()


def test_what_was_clicked_is_not_shown_again(world: World) -> None:
    pair = world.user * len(world.items) + world.item
    shown = pl.DataFrame({"pair": pair, "time": world.time, "click": world.click})
    clicked = shown.filter(pl.col("click") == 1)
    assert not clicked["pair"].is_duplicated().any()
    later = shown.join(clicked.select("pair", at="time"), on="pair").filter(
        pl.col("time") > pl.col("at")
    )
    assert len(later) == 0
    assert shown["pair"].is_duplicated().any()  # but what was passed over may come back


def test_clicks_follow_the_stated_model(world: World) -> None:
    """The log-odds less the observable terms are the session's intent: 0, one or the other."""
    kind, distance, seen = world.intent()
    # float32 probabilities next to 1 do not determine the log-odds well
    assert (distance[seen < 0.999] < 5e-3).all()

    about = pl.DataFrame({"session": world.session(), "leaf": world.leaf[world.item], "kind": kind})
    intent = about.filter(pl.col("kind") == 2).unique(["session", "leaf"])
    assert not intent["session"].is_duplicated().any()
    pairs = about.filter(pl.col("kind") == 1).join(
        intent.select("session", intent="leaf"), on="session"
    )
    assert (world.complement[pairs["intent"].to_numpy()] == pairs["leaf"].to_numpy()).all()

    # and the clicks are draws from these chances
    chance = world.truth["click_probability"]
    for low in np.arange(0, 0.8, 0.1):
        rows = (chance >= low) & (chance < low + 0.1)
        error = 4 * 0.5 / np.sqrt(rows.sum())
        assert abs(world.click[rows].mean() - chance[rows].mean()) < error


def test_clicks_fall_with_the_position_as_examination_does(world: World) -> None:
    rate = np.array([world.click[world.position == p].mean() for p in range(10)])
    examination = world.truth["examination"]
    assert (np.diff(examination) < 0).all()
    np.testing.assert_allclose(rate / rate[0], examination / examination[0], atol=0.06)


def test_interest_popularity_and_novelty_drive_clicks(world: World) -> None:
    top = world.position == 0  # always looked at, so the log-odds are linear
    kind = world.intent()[0]
    causes = np.column_stack([world.terms(), kind == 1, kind == 2])[top]
    fitted = LogisticRegression(C=1e6).fit(causes, world.click[top]).coef_[0]
    names = ("interest", "popularity", "recency", "complement", "intent")
    np.testing.assert_allclose(fitted, [world.weights[name] for name in names], rtol=0.2)


def test_followers_click_popular_items(world: World) -> None:
    clicked = world.click == 1
    popularity = world.truth["item_popularity"][world.item[clicked]]
    conformity = world.truth["user_conformity"]
    low, high = np.quantile(conformity, [1 / 3, 2 / 3])
    owner = conformity[world.user[clicked]]
    assert popularity[owner > high].mean() > popularity[owner < low].mean() + 0.35
    counts = np.bincount(world.item[clicked], minlength=len(world.items))
    top_tenth = np.sort(counts)[::-1][: len(counts) // 10].sum() / counts.sum()
    assert 0.2 < top_tenth < 0.6


def test_cold_items_appear_late(world: World) -> None:
    release = world.truth["item_release"]
    assert (world.time >= release[world.item]).all()
    cold = release > EPOCH + (CONFIG.days - CONFIG.cold_days) * DAY
    assert 0.05 < cold.mean() < 0.11
    early = world.time < EPOCH + (CONFIG.days - CONFIG.cold_days) * DAY
    assert not cold[world.item[early]].any()
    late_clicks = world.item[~early & (world.click == 1)]
    assert len(np.unique(late_clicks[cold[late_clicks]])) > 0.8 * cold.sum()
    assert 0.15 < ((release > EPOCH) & ~cold).mean() < 0.3


def test_texts_tell_the_category_and_the_style(world: World) -> None:
    texts = world.items.select(pl.concat_str("title", "description", separator=" ")).to_series()
    vectors = TfidfVectorizer().fit_transform(texts.to_list()).toarray()
    alike = vectors @ vectors.T
    np.fill_diagonal(alike, -1)
    nearest = alike.argmax(1)
    purity = (world.leaf[nearest] == world.leaf).mean()
    chance = (world.leaf[:, None] == world.leaf).mean()
    assert purity > 0.85
    assert chance < 0.05
    # what the text says is what people respond to
    interest = world.truth["item_interest"]
    interest = interest / np.linalg.norm(interest, axis=1, keepdims=True)
    assert (interest * interest[nearest]).sum(1).mean() > (interest @ interest.T).mean() + 0.4


def test_visits_have_a_purpose_and_lead_to_the_next(world: World) -> None:
    rows = np.flatnonzero(world.click)
    order = rows[np.lexsort((world.time[rows], world.user[rows]))]
    user, leaf, session = world.user[order], world.leaf[world.item[order]], world.session()[order]
    pair = np.diff(user) == 0
    inside = pair & (np.diff(session) == 0)
    across = pair & ~inside
    same, follows = leaf[1:] == leaf[:-1], leaf[1:] == world.complement[leaf[:-1]]
    leads = leaf[:-1] == world.complement[leaf[1:]]
    assert same[inside].mean() > 1.4 * same[across].mean()
    assert follows[across].mean() > 1.4 * leads[across].mean()


def test_rows_tell_nothing(world: World) -> None:
    row = np.arange(len(world.items))
    traits = [world.truth["item_popularity"], world.truth["item_release"], world.items["price"]]
    for trait in traits:
        assert abs(np.corrcoef(row, trait)[0, 1]) < 0.13  # 3 standard errors
    chance = (world.leaf[:, None] == world.leaf).mean()
    assert (np.diff(world.leaf) == 0).mean() < 3 * chance
    assert abs(np.corrcoef(np.arange(1500), world.truth["user_conformity"])[0, 1]) < 0.08


def test_knowing_the_truth_beats_popularity(world: World) -> None:
    rows = np.flatnonzero(world.click)
    cut = np.quantile(world.time[rows], 0.85)
    train, test = rows[world.time[rows] < cut], rows[world.time[rows] >= cut][:1500]
    counts = np.bincount(world.item[train], minlength=len(world.items)).astype(float)
    interest = world.truth["user_interest"][world.user[test]] @ world.truth["item_interest"].T

    def hit_rate(scores: Array) -> float:
        target = np.take_along_axis(scores, world.item[test][:, None], 1)
        return float(((scores > target).sum(1) < 10).mean())

    popular = hit_rate(np.tile(counts, (len(test), 1)))
    assert 3 * 10 / 600 < popular < 0.2
    assert hit_rate(interest) > 1.7 * popular


def test_the_work_is_vectorised(tmp_path: Path) -> None:
    """Ten times the users run about as many lines of Python."""

    def lines(num_users: int) -> int:
        count = 0

        def trace(frame: FrameType, event: str, arg: Any) -> Any:
            nonlocal count
            if "synthetic" not in frame.f_code.co_filename:
                return None
            count += event == "line"
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            config = SyntheticConfig(num_users=num_users, num_items=50, sessions_per_user=3)
            generate(config, tmp_path / str(num_users))
        finally:
            sys.settrace(before)
        return count

    assert 50 < lines(2000) < 2 * lines(200)


def test_tiny_worlds_work(tmp_path: Path) -> None:
    config = SyntheticConfig(num_users=1, num_items=2, sessions_per_user=0.1, slate_size=5, days=7)
    with pytest.raises(ValueError, match=r"synthetic\.cold_days: must be fewer than days \(7\)"):
        generate(config, tmp_path / "raw")
    assert not list(tmp_path.iterdir())
    config = config.model_copy(update={"cold_days": 1})
    assert generate(config, tmp_path / "raw").metrics["num_impressions"] <= 2
