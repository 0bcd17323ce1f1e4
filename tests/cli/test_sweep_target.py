"""Which part of a config leads to what a sweep judges."""

import json
from pathlib import Path
from typing import Any

import pytest

from dasrec.cli.config import RunConfig
from dasrec.cli.sweep_target import Needs, validation_figure
from dasrec.core import build_config, write_artifact

GENERATOR = {"pretrain": {"base": {"scratch": {"architecture": "gpt2"}}}}
DOCUMENT: dict[str, Any] = {
    "name": "small",
    "prepare": {"interactions": {"path": "log.parquet"}},
    "baselines": {"popularity": {}, "sasrec": {}, "two_tower": {"tokenizer": "das"}},
    "tokenizers": {"das": {"method": "das"}, "tiger": {"method": "tiger"}},
    "generator": GENERATOR | {"item_head": {}},
    "generators": {
        "long": GENERATOR,
        "tuned": {"after": "long", "sft": {"lora": {"r": 4}}},
    },
    "ranking": {"tokenizer": "das"},
    "fusions": {
        "both": {"methods": ["das.tuned", "two_tower"]},
        "all": {"methods": ["das_ranked", "popularity"]},
    },
}
CONTENT = {"describe", "embed", "tokenize", "assign"}


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return build_config(RunConfig, DOCUMENT, "test")


@pytest.mark.parametrize(
    ("of", "baselines", "tokenizers", "generators", "retrieved"),
    [
        ("reports/popularity", {"popularity"}, set(), set(), set()),
        ("models/sasrec", {"sasrec"}, set(), set(), set()),
        ("reports/two_tower", {"two_tower"}, {"das"}, set(), set()),
        ("sids/tiger", set(), {"tiger"}, set(), set()),
        ("reports/tiger", set(), {"tiger"}, {"main"}, {"main"}),
        ("generators/das.tuned", set(), {"das"}, {"long", "tuned"}, {"tuned"}),
        ("reports/das_ranked", set(), {"das"}, {"main"}, {"main"}),
        ("reports/das_head", set(), {"das"}, {"main"}, {"main"}),
        ("item_heads/das", set(), {"das"}, {"main"}, {"main"}),
        ("rankers/id_only", set(), {"das"}, set(), set()),
        ("reports/both", {"two_tower"}, {"das"}, {"long", "tuned"}, {"tuned"}),
        ("reports/all", {"popularity"}, {"das"}, {"main"}, {"main"}),
    ],
)
def test_only_what_is_needed_is_kept(
    of: str,
    baselines: set[str],
    tokenizers: set[str],
    generators: set[str],
    retrieved: set[str],
    config: RunConfig,
) -> None:
    needs = Needs(config, of)
    kept = needs.trimmed()
    given = kept.baselines.model_dump(exclude_none=True).keys() - {"sasrec_lists"}
    assert given == baselines
    assert kept.tokenizers.keys() == tokenizers
    assert kept.all_generators.keys() == generators
    assert needs.generators == retrieved
    assert all(g.retrieve.splits == ("valid",) for g in kept.all_generators.values())
    assert (kept.ranking is not None) == (
        of in ("reports/das_ranked", "rankers/id_only", "reports/all")
    )
    assert not needs.stages & CONTENT if not tokenizers else "tokenize" in needs.stages
    assert ("head" in needs.stages) == (of in ("reports/das_head", "item_heads/das"))
    assert ("evaluate" in needs.stages) == of.startswith("reports/")
    assert "describe" not in needs.stages  # the config has none


def test_stages_end_with_what_is_judged(config: RunConfig) -> None:
    assert Needs(config, "sids/das").stages == {
        "prepare", "embed", "baselines", "tokenize", "assign"
    }  # fmt: skip
    assert "sft" not in Needs(config, "bases/das").stages
    assert "retrieve" not in Needs(config, "generators/das.tuned").stages


def test_validation_figures_only(tmp_path: Path) -> None:
    metrics = {
        "valid": {"auc": 0.6},
        "test": {"all": {"auc": 0.9}},
        "best_epoch": 3,
    }
    write_artifact(
        tmp_path / "rankers" / "das", "ranking_model", {}, {}, lambda path: None, metrics=metrics
    )
    assert validation_figure(tmp_path, "rankers/das", "auc") == 0.6
    with pytest.raises(ValueError, match=r"no figure 'test' of the validation split; known: auc$"):
        validation_figure(tmp_path, "rankers/das", "test")
    manifest = tmp_path / "rankers" / "das" / "manifest.json"
    manifest.write_text(json.dumps({"metrics": {"item/collision_rate": 0.2, "test": {"x": 1}}}))
    assert validation_figure(tmp_path, "rankers/das", "item/collision_rate") == 0.2
