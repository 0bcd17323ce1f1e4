"""The whole system on small generated data, as a user runs it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dasrec.cli.config import load_run_config
from dasrec.core.artifacts import MANIFEST, Manifest
from dasrec.eval.results import read_comparisons, read_results

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))

SMALL = [
    "synthetic.num_users=150",
    "synthetic.num_items=80",
    "embed.lsa.dim=16",
    "baselines.sasrec.epochs=2",
    "baselines.sasrec.hidden=16",
    "tokenizers.das={method: das, level_sizes: [8, 8], code_dim: 8, hidden: [16], epochs: 3, "
    "batch_size: 128}",
    "tokenizers.tiger={method: tiger, level_sizes: [8, 8], code_dim: 8, hidden: [16], epochs: 3, "
    "continuous_epochs: 1, batch_size: 64}",
    "generator.pretrain.base.scratch.options={n_embd: 16, n_layer: 1, n_head: 2, n_positions: 128}",
    "generator.pretrain.base.scratch.text_vocab_size=300",
    "generator.pretrain.validation_queries=30",
    "generator.pretrain.trainer.num_train_epochs=3",
    "generator.sft.validation_queries=30",
    "generator.sft.trainer.num_train_epochs=1",
    "ranking.train.epochs=1",
    "ranking.train.model={embedding_dim: 4, hidden_dims: [8]}",
]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_config_builds(path: Path) -> None:
    assert load_run_config(path).name


def dasrec(*arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "120"}
    return subprocess.Popen(
        [sys.executable, "-m", "dasrec.cli.main", *arguments],
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == code, output
    return output


def fingerprints(run: Path) -> dict[str, str]:
    found = {}
    for path in sorted(run.rglob(MANIFEST)):
        manifest = Manifest(**json.loads(path.read_text()))
        found[path.parent.relative_to(run).as_posix()] = manifest.fingerprint
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("run") / "a"
    return out, finish(dasrec("run", "configs/quickstart.yaml", *SMALL, "--out", str(out)))


def test_a_run_ends_with_metrics_and_recommendations(finished: tuple[Path, str]) -> None:
    out, printed = finished
    for words in ("Semantic IDs of items", "test, full catalogue", "Recommended", "SYNTHETIC"):
        assert words in printed
    assert "report.html" in printed.rsplit("Report:")[-1]
    systems = json.loads((out / "report.json").read_text())["systems"]
    results = json.loads((out / "results.json").read_text())
    methods = {"popularity", "item_knn", "sasrec", "das", "tiger", "das_head", "das_ranked"}
    assert set(results["methods"]) == methods == {system["method"] for system in systems}
    for splits in results["methods"].values():
        assert set(splits) == {"valid", "test"}
        assert splits["test"]["all"]["invalid_rate@10"] == 0
        assert 0 <= splits["test"]["all"]["recall@10"] <= 1
    assert set(results["ranking"]) == {"id_only", "das"}
    assert not list(out.rglob(".*.work"))


def test_a_second_run_only_shows_and_records(finished: tuple[Path, str], tmp_path: Path) -> None:
    out, _ = finished
    before = fingerprints(out)
    record = ["--record", str(tmp_path / "results")]
    printed = finish(dasrec("run", "configs/quickstart.yaml", *SMALL, "--out", str(out), *record))
    assert "..." not in printed.split("Semantic IDs of items")[0]
    assert fingerprints(out) == before

    lines = read_results(tmp_path / "results")
    results = json.loads((out / "results.json").read_text())
    ladder = {(line.method, line.split): line for line in lines if line.topic == "ladder"}
    assert len(ladder) == 2 * len(results["methods"])
    for (method, split), line in ladder.items():
        whole = results["methods"][method][split]
        assert line.metrics["recall@10"] == whole["all"]["recall@10"]
        assert line.metrics["ndcg@10[tie_free]"] == whole["tie_free"]["ndcg@10"]
        assert line.command.startswith("dasrec run configs/quickstart.yaml synthetic.num_users=150")
    page = tmp_path / "results.md"
    finish(dasrec("report", "--results", str(tmp_path / "results"), "--out", str(page)))
    assert f"{ladder['das', 'test'].metrics['recall@10']:.4f}" in page.read_text()


def test_a_killed_run_goes_on_to_the_same_artifacts(
    finished: tuple[Path, str], tmp_path: Path
) -> None:
    out, arguments = tmp_path / "b", ["run", "configs/quickstart.yaml", *SMALL]
    kills = [".das.work/checkpoint.pt", ".das.work/checkpoint-*/trainer_state.json"]
    for pattern in kills:  # in the tokenizer's training, then in the generator's
        process = dasrec(*arguments, "--out", str(out))
        while process.poll() is None and not list(out.rglob(pattern)):
            time.sleep(0.02)
        assert process.poll() is None, finish(process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finish(dasrec(*arguments, "--out", str(out)))
    assert fingerprints(out) == fingerprints(finished[0])


def test_recommend_names_items_and_unknown_ids(finished: tuple[Path, str]) -> None:
    out, _ = finished
    users = json.loads((out / "corpus" / "sizes.json").read_text())["num_users"]
    assert users > 0
    from dasrec.core import load_corpus

    corpus = load_corpus(out / "corpus")
    user, items = corpus.users["user_id"][0], corpus.items["item_id"][:3].to_list()
    arguments = ["recommend", "--run", str(out), "-k", "4"]
    known = dasrec(*arguments, "--user", user)
    given = dasrec(*arguments, "--history", ",".join(items), "--exclude-seen")
    wrong = dasrec(*arguments, "--history", "nothing")
    assert user in finish(known)
    printed = finish(given).split("Recommended")[1]
    assert printed.count("I0") == 4
    assert not any(item in printed for item in items)
    assert "item 'nothing' is not in the corpus" in finish(wrong, code=2)


def test_two_calls_side_by_side_fill_one_run_without_fine_tuning(
    finished: tuple[Path, str], tmp_path: Path
) -> None:
    out, record = tmp_path / "run", tmp_path / "results"
    arguments = [
        *("run", "configs/quickstart.yaml", *SMALL, "--out", str(out)),
        *("generator.sft=null", "generator.retrieve.splits=[test]", "ranking=null"),
        "generator.item_head=null",
        *("baselines.sasrec=null", "--record", str(record), "--topic", "tokenizers"),
    ]
    started = {name: dasrec(*arguments, "--method", name) for name in ("das", "tiger")}
    printed = {name: finish(process) for name, process in started.items()}
    made = fingerprints(out)
    for name in ("corpus", "recommendations/popularity"):  # by one of the two
        done = [text.count(f"{name}: done in") for text in printed.values()]
        assert sorted(done) == [0, 1]
        assert name in json.loads((out / "seconds.json").read_text())
    assert made["corpus"] == fingerprints(finished[0])["corpus"]
    assert {f"{kind}/{name}" for kind in ("bases", "reports") for name in started} <= set(made)
    assert not (out / "generators").exists()
    assert "popularity" not in printed["das"].split("Semantic IDs of items")[1]
    assert "Recommended" in printed["tiger"]

    lines = read_results(record)
    assert {(line.topic, line.method, line.split) for line in lines} == {
        ("tokenizers", "das", "test"),
        ("tokenizers", "tiger", "test"),
    }
    for line in lines:
        manifest = json.loads((out / "sids" / line.method / MANIFEST).read_text())
        for key, value in manifest["metrics"].items():
            assert line.metrics[key.removeprefix("item/").replace("/", "_")] == value
        assert set(line.seconds) == {"tokenize", "assign", "train", "retrieve", "evaluate"}

    compare = ["compare", str(out), "--baseline", "das", "--record", str(record)]
    text = finish(dasrec(*compare, "--metric", "recall@10", "--topic", "tokenizers"))
    assert "das minus the method" in text
    (compared,) = read_comparisons(record)
    recall = {line.method: line.metrics["recall@10"] for line in lines}
    assert compared.difference == pytest.approx(recall["das"] - recall["tiger"])
    assert (compared.dataset, compared.protocol) == (lines[0].dataset, lines[0].protocol)
    user = load_users(out)[0]
    assert user in finish(dasrec("recommend", "--run", str(out), "--user", user, "-k", "2"))


def load_users(run: Path) -> list[str]:
    from dasrec.core import load_corpus

    return list(load_corpus(run / "corpus").users["user_id"])


def test_mistakes_end_with_one_message(tmp_path: Path) -> None:
    mistakes = {
        ("run", "configs/nope.yaml"): "configs/nope.yaml: no such config file",
        ("run", "configs/quickstart.yaml", "tokenizers.das.epoch=1"): "did you mean 'epochs'?",
        ("run", "configs/amazon_beauty.yaml"): "give its folder with --data PATH",
        ("sft", "configs/quickstart.yaml", "--out", str(tmp_path)): "no 'corpus' artifact here",
    }
    started = {message: dasrec(*arguments) for arguments, message in mistakes.items()}
    for message, process in started.items():
        printed = finish(process, code=2)
        assert message in printed
        assert "Traceback" not in printed
    assert not list(tmp_path.iterdir())
