"""`dasrec rank`: compare, score and export on a tiny run directory, and what each refuses."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from tests.ranking.conftest import World, write_sids

from dasrec.cli.config import load_run_config
from dasrec.cli.main import main
from dasrec.cli.rank_compare import protocol_of
from dasrec.cli.two_stage import two_stage_figures, two_stage_table
from dasrec.core import Recommendations, load_corpus, write_recommendations
from dasrec.core.config import build_config
from dasrec.eval.report import EvalConfig, evaluate_recommendations
from dasrec.eval.results import read_comparisons, read_results
from dasrec.ranking import RankingConfig, RerankConfig, load_ranker, rerank, train_ranker

TRAIN = {
    "epochs": 1,
    "model": {"embedding_dim": 4, "hidden_dims": [8]},
    "features": {"hash_size": 64, "max_history": 10},
}
ARMS = {
    "id_only": {"against": []},
    "id_das": {"tokenizer": "das"},
    "sid_only": {"tokenizer": "das", "train": {"features": {"ids": False}}},
}


def dasrec(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with corpus, SIDs and CTR models."""
    out = tmp_path_factory.mktemp("run")
    world = World(out, num_users=40, num_items=60, rows_each=30, impressions=True)
    shutil.rmtree(out / "sids")
    manifest = json.loads((out / "corpus" / "manifest.json").read_text())
    manifest |= {"inputs": {"raw": "0123"}, "config": {"split": {"method": "global_time"}}}
    (out / "corpus" / "manifest.json").write_text(json.dumps(manifest))
    corpus = load_corpus(out / "corpus")
    sids = write_sids(out / "sids" / "das", corpus, world.codes)
    for name, given in (("id_only", None), ("das", sids)):
        train_ranker(
            build_config(RankingConfig, TRAIN, "test"), corpus, given, out / "rankers" / name
        )
    return out


@pytest.fixture(scope="module")
def config(run: Path) -> Path:
    path = run / "config.yaml"
    compare = {"arms": ARMS, "seeds": [0, 1], "num_samples": 200}
    document = {
        "name": "tiny",
        "prepare": {"interactions": {"path": "log.parquet"}},
        "tokenizers": {"das": {"method": "das", "level_sizes": [6, 5, 4]}},
        "ranking": {"tokenizer": "das", "train": TRAIN, "compare": compare},
    }
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def test_compare_trains_reports_and_records(
    run: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dasrec("rank", "compare", config, "--out", run, "--arm", "id_only", "--seed", 1) == 0
    folder = run / "rank_compare"
    assert sorted(p.name for p in folder.glob("*/*/model")) == ["model"]
    assert dasrec("rank", "compare", config, "--out", run, "--record", tmp_path) == 0
    report = json.loads((folder / "report.json").read_text())
    assert {name: arm["seeds"] for name, arm in report["arms"].items()} == {
        key: [0, 1] for key in ARMS
    }
    assert (folder / "report.svg").read_text().count("id_das - id_only") == 1
    markdown = (folder / "report.md").read_text()
    assert "| id_das - id_only | gauc* | all |" in markdown
    shown = capsys.readouterr().out
    assert "id_das - id_only" in shown
    lines, compared = read_results(tmp_path), read_comparisons(tmp_path)
    assert [(line.method, line.seed) for line in lines] == [(a, s) for a in ARMS for s in (0, 1)]
    values = report["arms"]["id_das"]["slices"]["warm"]["gauc"]["values"]
    assert [line.metrics["gauc[warm]"] for line in lines if line.method == "id_das"] == values
    first = next(c for c in report["comparisons"] if c["primary"])
    line = next(c for c in compared if (c.method, c.metric) == (first["arm"], "gauc"))
    assert line.difference == pytest.approx(line.mean_baseline - line.mean_method)
    assert (line.low, line.high) == (-first["high"], -first["low"])
    assert line.p_seeds == first["p_seeds"] is not None
    # the page can be written from the lines
    assert dasrec("report", "--results", tmp_path, "--out", tmp_path / "results.md") == 0
    assert "id_das" in (tmp_path / "results.md").read_text()


def test_protocol_says_whether_negatives_were_sampled(config: Path, tmp_path: Path) -> None:
    settings = load_run_config(config, ["ranking.train.negatives.matching=uniform"])
    sizes = {"num_users": 10, "num_items": 20, "rows_each": 10}
    found = [
        protocol_of(settings, World(tmp_path / str(given), **sizes, impressions=given).corpus)
        for given in (True, False)
    ]
    assert found == ["leave_one_out/impressions", "leave_one_out/4_negatives_by_uniform"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--arm", "id_dass"), "--arm id_dass: not an arm; known: id_only, id_das, sid_only"),
        (("--seed", 7), "--seed 7: not in ranking.compare.seeds (0, 1)"),
        (("ranking.compare.arms.id_das.tokenizer=x",), "'x' is not in tokenizers (das)"),
        (("ranking=null",), "no section 'ranking'"),
    ],
)
def test_compare_refuses(
    run: Path,
    config: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[Any, ...],
    message: str,
) -> None:
    assert dasrec("rank", "compare", config, *arguments, "--out", run) == 2
    assert message in capsys.readouterr().err


def test_score_uses_the_model_with_sids_or_the_named_one(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, out = tmp_path / "rows.parquet", tmp_path / "scored.parquet"
    pl.DataFrame({"user_id": ["u3", "u0"], "item_id": ["i9", "i1"]}).write_parquet(rows)
    arguments = ("rank", "score", run, "--input", rows, "--output", out)
    corpus = load_corpus(run / "corpus")
    users, items = np.array([3, 0]), np.array([9, 1])
    ends = np.asarray(corpus.user_start)[users + 1]
    assert dasrec(*arguments, "--model", "id_only") == 0
    plain = load_ranker(run / "rankers" / "id_only", corpus, None).score(users, items, ends)
    np.testing.assert_allclose(pl.read_parquet(out)["logit"], plain, atol=1e-6)
    assert dasrec(*arguments) == 0
    assert "2 rows" in capsys.readouterr().out
    assert np.abs(pl.read_parquet(out)["logit"].to_numpy() - plain).max() > 1e-5
    assert dasrec(*arguments, "--model", "nothing") == 2
    assert "not in" in capsys.readouterr().err


def test_export_writes_a_folder(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dasrec("rank", "export", run, "--out", tmp_path / "out", "--no-onnx", "--users") == 0
    assert "largest difference" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"model.pt2", "schema.json", "score.py", "item_ids.json", "user_ids.json"} < names


def test_two_stages_are_compared_query_by_query(run: Path) -> None:
    corpus = load_corpus(run / "corpus")
    assert two_stage_figures(run, "das") == {}
    queries = np.sort(np.concatenate([corpus.queries("valid"), corpus.queries("test")]))
    rng = np.random.default_rng(0)
    items = np.argsort(rng.random((len(queries), corpus.num_items)), axis=1)[:, :20]
    scores = np.tile(-np.arange(20, dtype=np.float32), (len(queries), 1))
    lists = Recommendations(queries, items.astype(np.int32), scores)
    folder = run / "recommendations"
    write_recommendations(folder / "das", {}, {"corpus": corpus.manifest}, lists)
    sids = write_sids(run / "sids" / "again", corpus, np.load(run / "sids/das/items.codes.npy"))
    rerank(RerankConfig(), run / "rankers/das", folder / "das", corpus, sids, folder / "das_ranked")
    for name in ("das", "das_ranked"):
        evaluate_recommendations(EvalConfig(), name, folder / name, corpus, run / "reports" / name)
    found = two_stage_figures(run, "das")
    assert found["generator_weight"] in RerankConfig().weight_grid
    for metric in ("recall@10", "ndcg@10"):
        one = found[metric]
        assert one["difference"] == pytest.approx(one["ranked"] - one["generator"])
        assert one["low"] <= one["difference"] <= one["high"]
    assert two_stage_table(found).row_count == 2
