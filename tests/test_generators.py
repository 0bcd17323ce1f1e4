"""Several generators in one run, each a chain of stages."""

import logging
import re
import shutil
from pathlib import Path

import pytest
from tests.test_pipeline import ROOT, SMALL

from dasrec.cli.config import RunConfig, load_run_config
from dasrec.cli.generator_steps import split_name, trained_model
from dasrec.cli.pipeline import Run
from dasrec.cli.record import _seconds_of, record_results
from dasrec.core.artifacts import load_manifest
from dasrec.core.config import apply_overrides, build_config, read_yaml
from dasrec.eval.results import read_results

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

QUICKSTART = ROOT / "configs" / "quickstart.yaml"
TRAIN = "validation_queries: 20, trainer: {num_train_epochs: 1}"
VARIANTS = [
    *SMALL,
    "generator.sft=null",
    "baselines={}",
    f"generators.tuned={{after: main, sft: {{lora: {{r: 2}}, {TRAIN}}}}}",
    f"generators.whole={{after: main, sft: {{lora: null, {TRAIN}}}}}",
    "generators.aligned={after: tuned, align: {method: grpo, group_size: 4, max_prompts: 16, "
    f"rewards: {{ranker: 1.0}}, {TRAIN}}}, item_head: {{train: {{epochs: 1}}}}}}",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    document = read_yaml(QUICKSTART)
    del document["tokenizers"]["tiger"]
    overrides = [value for value in VARIANTS if not value.startswith("tokenizers.tiger")]
    config = build_config(RunConfig, apply_overrides(document, overrides), "quickstart")
    run = Run(config, tmp_path_factory.mktemp("run"))
    run.execute()
    return run


def test_a_variant_starts_from_the_model_that_another_ends_with(finished: Run) -> None:
    base = load_manifest(finished.path("bases", "das"), "base_model")
    tuned = load_manifest(finished.path("generators", "das.tuned"), "generator")
    whole = load_manifest(finished.path("generators", "das.whole"), "base_model")
    aligned = load_manifest(finished.path("aligned", "das.aligned"), "generator")
    ranker = load_manifest(finished.path("rankers", "das"), "ranking_model")
    assert tuned.inputs["base_model"] == whole.inputs["base_model"] == base.fingerprint
    assert aligned.inputs["start"] == tuned.fingerprint
    assert aligned.inputs["reward_scores"] == ranker.fingerprint
    assert trained_model(finished.out, "das.aligned") == finished.path("aligned", "das.aligned")
    assert not finished.path("bases", "das.tuned").exists()


def test_each_generator_has_lists_and_figures_of_its_own(finished: Run, tmp_path: Path) -> None:
    tuned = ["das.tuned", "das.whole", "das.aligned", "das.aligned_head"]
    names = ["das", "das_head", *tuned, "das_ranked"]
    assert finished.methods == names
    used = {
        load_manifest(finished.path("recommendations", name), "recommendations").inputs["generator"]
        for name in names[:-1]
    }
    assert len(used) == 4  # a head's lists are of its generator
    record_results(finished, tmp_path, QUICKSTART, [], "generator")
    lines = [line for line in read_results(tmp_path) if line.topic == "generator"]
    assert {(line.method, line.variant) for line in lines} == {
        ("das", ""), ("das", "tuned"), ("das", "whole"), ("das", "aligned"),
        ("das", "aligned_head"), ("das_head", ""), ("das_ranked", ""),
    }  # fmt: skip
    digests = {line.variant: line.config_sha256 for line in lines if line.method == "das"}
    assert digests["aligned"] == digests["aligned_head"]
    assert len(set(digests.values())) == 4


def test_recorded_seconds_are_of_all_models_that_led_to_a_method(tmp_path: Path) -> None:
    run = Run(load_run_config(ROOT / "configs" / "generator_beauty.yaml"), tmp_path, tmp_path)
    run.seconds = {
        "tokenizers/das": 1000.0,
        "bases/das.scratch": 400.0,
        "bases/das.cpt": 100.0,
        "generators/das.cpt": 7.0,  # of a stage that the config no longer has
        "generators/das.cpt_lora": 20.0,
        "recommendations/das.cpt_lora": 5.0,
        "aligned/das.grpo": 3.0,
        "recommendations/das.grpo": 2.0,
        "reports/das.grpo": 0.5,
        "item_heads/das.grpo": 9.0,
        "recommendations/das.grpo_head": 1.0,
    }
    assert _seconds_of(run, "das.cpt") == {"train": 100.0}
    assert _seconds_of(run, "das.cpt_lora") == {"train": 120.0, "retrieve": 5.0}
    assert _seconds_of(run, "das.grpo") == {"train": 123.0, "retrieve": 2.0, "evaluate": 0.5}
    assert _seconds_of(run, "das.grpo_head") == {"train": 132.0, "retrieve": 3.0}


def test_only_what_is_asked_for_and_not_there_is_made(
    finished: Run, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "dasrec.cli.pipeline"):
        Run(finished.config, finished.out, variants=["aligned"]).execute()
    told = [record.getMessage() for record in caplog.records]
    assert any("aligned/das.aligned: up to date" in line for line in told)
    assert any("generators/das.tuned: up to date" in line for line in told)
    assert not any("das.whole" in line for line in told)
    assert not any("done in" in line for line in told)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("generators.x={after: nowhere, sft: {}}", "generators.x.after: 'nowhere' is not there"),
        ("generators.x={after: x, sft: {}}", "'x' starts from itself"),
        ("generators.x={after: main}", "no stage to run"),
        ("generators.x={sft: {}}", "give either 'pretrain' or 'after'"),
        ("generators.x={after: main, sft: {}}", "'main' ends with an adapter"),
        ("generators.main={after: main, sft: {}}", "name of the section 'generator'"),
        ("generators.X-1={after: main, align: {method: dpo}}", "lower-case letters"),
        (
            "generators.x={after: main, align: {method: grpo, rewards: {ranker: 1}}}",
            "be that of the generator's only tokenizer",
        ),
        (
            "generator.item_head.tokenizers=[dsa]",
            "generator.item_head.tokenizers: 'dsa' is not in tokenizers",
        ),
        (
            "generators.x={tokenizers: [das], after: main, align: {method: dpo}, "
            "item_head: {tokenizers: [tiger]}}",
            "generators.x.item_head.tokenizers: 'tiger' is not in generators.x.tokenizers (das)",
        ),
        ("generator.retrieve.splits=[test]", "item_head.rank.weight is chosen on the validation"),
        ("generator.item_head.rank.width=5", "generator.item_head.rank.width must be at least"),
        ("generator.tokenizers=[das, dsa]", "generator.tokenizers: 'dsa' is not in tokenizers"),
        (
            "generators.x={after: main, align: {method: dpo}, retrieve: {num_items: 5}}",
            "generators.x.retrieve.num_items must be at least",
        ),
    ],
)
def test_a_chain_that_cannot_run_is_refused(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        load_run_config(QUICKSTART, [override])


def test_a_missing_generator_is_told_with_those_that_are_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"--method das: .*; none was trained"):
        trained_model(tmp_path, "das")
    for name in ("bases/das.one", "generators/das.one", "bases/das.two", "bases/.das.work"):
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"generator; there are das\.one, das\.two$"):
        trained_model(tmp_path, "das")
    assert trained_model(tmp_path, "das.one") == tmp_path / "generators" / "das.one"


def test_a_model_left_by_a_stage_that_is_gone_does_not_count(finished: Run, tmp_path: Path) -> None:
    shutil.copytree(finished.out, tmp_path / "run")
    left = tmp_path / "run" / "generators" / "das"  # as if sft had been in the config before
    shutil.copytree(finished.path("generators", "das.tuned"), left)
    assert trained_model(tmp_path / "run", "das") == tmp_path / "run" / "bases" / "das"
    shutil.rmtree(tmp_path / "run" / "recommendations" / "das")
    assert trained_model(tmp_path / "run", "das") == left


def test_a_generator_can_keep_to_some_tokenizers(tmp_path: Path) -> None:
    overrides = [
        "generator.tokenizers=[das]",
        "generators.x={tokenizers: [tiger], after: main, align: {method: dpo}, item_head: {}}",
    ]
    config = load_run_config(QUICKSTART, overrides)
    made = ["das", "das_head", "tiger.x", "tiger.x_head", "das_ranked"]
    assert config.list_methods[-5:] == made
    run = Run(config, tmp_path)
    assert {name: run.variants_of(name) for name in config.tokenizers} == {
        "das": ["main"],
        "tiger": ["x"],
    }
    rewarded = (
        "generators.x={tokenizers: [das], after: main, align: {method: grpo, rewards: {ranker: 1}}}"
    )
    load_run_config(QUICKSTART, [rewarded])  # two tokenizers, but this one speaks the ranker's


def test_names_of_methods() -> None:
    assert split_name("das.grpo") == ("das", "grpo")
    assert split_name("das") == ("das", "")
    with pytest.raises(ValueError, match="--generator nothing: not in generators"):
        Run(load_run_config(QUICKSTART), Path("unused"), variants=["nothing"])
