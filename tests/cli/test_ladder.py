"""Every rung of the ladder in one run: lists, reports, and a merged list at the end."""

from pathlib import Path
from typing import Any

import pytest

from dasrec.cli.config import RunConfig
from dasrec.cli.pipeline import Run
from dasrec.cli.record import _seconds_of, record_results
from dasrec.core import build_config, load_recommendations
from dasrec.core.corpus import load_corpus
from dasrec.eval.report import load_report
from dasrec.eval.results import read_results

DOCUMENT: dict[str, Any] = {
    "name": "small",
    "synthetic": {"num_users": 120, "num_items": 60},
    "prepare": {
        "interactions": {"path": "impressions.parquet", "columns": {"label": "click"}},
        "items": {"path": "items.parquet"},
        "positive_label": 1,
    },
    "embed": {"items": {"encoder": "lsa"}, "users": {"encoder": "history_mean"}, "lsa": {"dim": 8}},
    "baselines": {
        "popularity": {},
        "popularity_recent": {"half_life_days": 5.0},
        "cooccurrence": {},
        "item_knn": {},
        "ease": {},
        "ials": {"factors": 4},
        "two_tower": {"tokenizer": "das"},
        "sasrec": {"hidden": 8, "epochs": 1},
    },
    "tokenizers": {
        "das": {
            "method": "das",
            "level_sizes": [8, 8],
            "code_dim": 8,
            "hidden": [16],
            "epochs": 2,
        }
    },
    "fusions": {"knn_or_dense": {"methods": ["item_knn", "two_tower"], "steps": 4}},
}


def config(**sections: Any) -> RunConfig:
    return build_config(RunConfig, DOCUMENT | sections, "test")


def test_a_run_makes_and_evaluates_all_rungs(tmp_path: Path) -> None:
    run = Run(config(), tmp_path / "run")
    run.execute()
    assert run.methods == [*list(DOCUMENT["baselines"])[:-1], "sasrec", "knn_or_dense"]
    corpus = load_corpus(run.path("corpus"))
    for name in run.methods:
        report = load_report(run.path("reports", name))
        assert report.splits["test"]["all"]["users"] > 50
    fused = load_recommendations(run.path("recommendations", "knn_or_dense"), corpus)
    assert fused.manifest is not None
    assert sum(fused.manifest.metrics["weights"].values()) == pytest.approx(1)
    # NDCG@10 that the weights were chosen by is what the report says of the validation lists
    best = max(fused.manifest.metrics["valid_ndcg@10"].values())
    valid = load_report(run.path("reports", "knn_or_dense")).splits["valid"]["all"]
    assert valid["ndcg@10"] == pytest.approx(best)

    stamp = run.path("recommendations", "knn_or_dense", "manifest.json").stat().st_mtime_ns
    again = Run(config(), tmp_path / "run")
    again.execute()
    assert (
        again.path("recommendations", "knn_or_dense", "manifest.json").stat().st_mtime_ns == stamp
    )
    record_results(again, tmp_path / "results", Path("small.yaml"), [])
    recorded = {line.method for line in read_results(tmp_path / "results")}
    assert recorded == set(run.methods)


def test_seconds_are_of_all_that_led_to_a_method(tmp_path: Path) -> None:
    generator = {"pretrain": {"base": {"scratch": {"architecture": "gpt2"}}}}
    fusions = {"all": {"methods": ["das_ranked", "two_tower"]}}
    settings = config(generator=generator, ranking={"tokenizer": "das"}, fusions=fusions)
    run = Run(settings, tmp_path)
    run.seconds = {
        "tokenizers/das": 1000.0,
        "sids/das": 200.0,
        "bases/das": 40.0,
        "recommendations/das": 7.0,
        "reports/das": 0.5,
        "rankers/das": 3.0,
        "rankers/id_only": 5000.0,
        "recommendations/das_ranked": 0.1,
        "recommendations/two_tower": 20.0,
        "recommendations/all": 0.2,
        "reports/all": 0.3,
        "models/sasrec": 90.0,
        "recommendations/sasrec": 1.0,
    }
    das = {"tokenize": 1000.0, "assign": 200.0, "train": 40.0}
    assert _seconds_of(run, "das") == das | {"retrieve": 7.0, "evaluate": 0.5}
    assert _seconds_of(run, "das_ranked") == das | {"retrieve": 7.1, "rank": 3.0}
    assert _seconds_of(run, "two_tower") == {"tokenize": 1000.0, "retrieve": 20.0}
    assert _seconds_of(run, "all") == das | {"retrieve": 27.3, "rank": 3.0, "evaluate": 0.3}
    assert _seconds_of(run, "sasrec") == {"train": 90.0, "retrieve": 1.0}


def test_faults_of_the_config_are_named() -> None:
    with pytest.raises(ValueError, match=r"two_tower\.tokenizer: expected one of `tokenizers`"):
        config(baselines={"two_tower": {"tokenizer": "other"}})
    plain = {"das": DOCUMENT["tokenizers"]["das"] | {"alpha": 0.0, "beta": 0.0}}
    with pytest.raises(ValueError, match=r"with a collaborative model, got 'das'"):
        config(tokenizers=plain)
    with pytest.raises(ValueError, match=r"fusions.x.methods: 'letter' makes no lists in this"):
        config(fusions={"x": {"methods": ["ease", "letter"]}})
    with pytest.raises(ValueError, match="'ease' is the name of another method"):
        config(fusions={"ease": {"methods": ["ials", "item_knn"]}})
