import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from tests.generative.world import make_corpus, make_sids, pretrain_config, sft_config
from transformers import AutoModelForCausalLM

from dasrec.cli.lineage import base_model_name, lineage, tasks_of
from dasrec.cli.main import main
from dasrec.core import Manifest, load_manifest, write_artifact
from dasrec.eval.report import EvalConfig, evaluate_recommendations, load_report
from dasrec.generative import RetrieveConfig, pretrain, retrieve, sft

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Could not find a config file:UserWarning"),
]

TRAINER = {"learning_rate": 1e-2, "num_train_epochs": 1, "per_device_train_batch_size": 8}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory as `dasrec run` leaves it, of a tiny world."""
    out = tmp_path_factory.mktemp("run") / "walks"
    corpus = make_corpus(out / "corpus")
    sids = make_sids(out / "sids" / "das", corpus)
    base = pretrain_config("llama", validation_queries=0, trainer=TRAINER)
    pretrain(base, corpus, sids, out / "bases" / "das")
    tuned = sft_config(validation_queries=0, trainer=TRAINER)
    model = out / "generators" / "das"
    sft(tuned, out / "bases" / "das", corpus, sids, model)
    lists = out / "recommendations" / "das"
    retrieve(RetrieveConfig(num_beams=20, num_items=20), model, corpus, sids, lists)
    evaluate_recommendations(EvalConfig(), "das", lists, corpus, out / "reports" / "das", sids=sids)
    (out / "results.json").write_text(json.dumps({"dataset": "walking", "synthetic": True}))
    return out


def dasrec(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def test_a_run_exports_with_its_own_figures(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dasrec("export", run, "--license", "apache-2.0", "--dtype", "bfloat16") == 0
    out = run / "exports" / "das"
    assert f"wrote {out}" in capsys.readouterr().out
    assert str(AutoModelForCausalLM.from_pretrained(out, dtype="auto").dtype) == "torch.bfloat16"
    card = ModelCard.load(out / "README.md")
    assert (card.data.model_name, card.data.license) == ("walking-das", "apache-2.0")
    assert "All figures are of SYNTHETIC data" in card.text
    assert "| coverage@10 |" in card.text
    assert "duplicate_rate" not in card.text
    expected = load_report(run / "reports" / "das").splits["test"]["all"]["recall@10"]
    found = {result.metric_type: result for result in card.data.eval_results}
    assert found["recall@10"].metric_value == pytest.approx(expected, abs=1e-6)
    assert found["recall@10"].dataset_name == "walking"
    assert load_manifest(out, "export").config["license"] == "apache-2.0"


def test_figures_of_another_generator_are_left_out(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = run / "bases" / "das"
    assert dasrec("export", run, "--generator", base, "--out", tmp_path / "out") == 0
    assert "is of another generator; the card holds no figures" in caplog.text
    assert ModelCard.load(tmp_path / "out" / "README.md").data.eval_results is None


def test_a_line_of_models_is_followed_by_fingerprint(tmp_path: Path) -> None:
    def model(path: str, config: dict[str, Any], **inputs: Manifest) -> Manifest:
        kind = "base_model" if path.startswith("bases") else "generator"
        if kind == "generator":
            return write_artifact(tmp_path / path, kind, config, inputs, pointer)
        return write_artifact(tmp_path / path, kind, config, inputs, lambda folder: None)

    def pointer(folder: Path) -> None:
        (folder / "base.json").write_text('{"path": "../../bases/das"}')

    tasks = {"next_item": 1.0, "explain": 0.5, "item_to_text": 0.0}
    base = model("bases/das", {"base": {"name": "owner/model"}, "tasks": tasks})
    full = model("bases/das.full", {"tasks": {"intention_to_item": 0.1}}, base_model=base)
    model("generators/das.full", {"lora": {}}, base_model=full)
    raw = Manifest(kind="raw", config={}, inputs={}, files={})
    model("bases/local", {"base": {"name": "somewhere/model"}}, base_files=raw)
    removed = Manifest(kind="base_model", config={"base": {}}, inputs={}, files={})
    model("bases/alone", {"tasks": {"next_item": 1.0}}, base_model=removed)
    model("bases/bare", {"tasks": tasks, "trainer": {"num_train_epochs": 0}})

    line = lineage(tmp_path / "generators" / "das.full")
    assert [m.fingerprint for m in line[1:]] == [full.fingerprint, base.fingerprint]
    assert base_model_name(line) == "owner/model"
    assert tasks_of(line) == {"next_item", "explain", "intention_to_item"}
    assert base_model_name(lineage(tmp_path / "bases" / "local")) is None
    assert base_model_name(lineage(tmp_path / "bases" / "alone")) is None
    assert tasks_of(lineage(tmp_path / "bases" / "das")) == {"next_item", "explain"}
    assert tasks_of(lineage(tmp_path / "bases" / "bare")) == set()


def test_mistakes_are_one_message(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("exports"))
    shutil.rmtree(tmp_path / "run" / "bases" / "das")
    (tmp_path / "taken").mkdir()
    mistakes = {
        ("export", tmp_path / "nothing"): "no 'corpus' artifact here",
        ("export", run, "--method", "tiger"): "has no such generator; there are das",
        ("export", tmp_path / "run"): "bases/das: no 'base_model' artifact here",
        ("export", run, "--out", tmp_path / "taken"): "choose another folder",
        ("export", run, "--dtype", "int3", "--out", tmp_path / "out"): "export.dtype: expected",
        ("export", run, "--public", "--out", tmp_path / "out"): "add --push REPO_ID",
    }
    for arguments, message in mistakes.items():
        assert dasrec(*arguments) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_push_uploads_what_was_written(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    uploaded: list[Any] = []

    class Api:
        def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
            uploaded.append((repo_id, private))

        def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> str:
            if repo_id == "owner/forbidden":
                raise OSError("403 Forbidden")
            uploaded.append(folder_path)
            return "https://hub/owner/walks"

    monkeypatch.setattr("dasrec.generative.export.push.HfApi", Api)
    out = tmp_path / "out"
    assert dasrec("export", run, "--out", out, "--push", "owner/walks", "--public") == 0
    assert uploaded == [("owner/walks", False), out]
    assert "uploaded: https://hub/owner/walks" in capsys.readouterr().out
    assert dasrec("export", run, "--out", tmp_path / "o2", "--push", "owner/forbidden") == 2
    assert "--push owner/forbidden: the hub refused: 403 Forbidden" in capsys.readouterr().err
