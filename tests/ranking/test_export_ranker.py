"""Exported graphs against the model, in every shape; the standalone scorer against the ranker."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from dasrec.core.config import build_config
from dasrec.ranking import Ranker, RankingConfig, load_ranker, train_ranker
from dasrec.ranking.calibration import Calibration
from dasrec.ranking.export.export import export_ranker, run_onnx, sample_inputs
from dasrec.ranking.export.graph import CalibrationGraph

OTHER_BACKBONES = (
    "finalmlp",
    "din",
    pytest.param("deepfm", marks=pytest.mark.slow),
    pytest.param("dnn", marks=pytest.mark.slow),
)


def trained(world: Any, out: Path, **values: Any) -> Ranker:
    settings = {
        "epochs": 1,
        "model": {"embedding_dim": 4, "hidden_dims": [8], **values.pop("model", {})},
        "features": {"hash_size": 64, "max_history": 10, **values.pop("features", {})},
    }
    train_ranker(
        build_config(RankingConfig, settings | values, "test"), world.corpus, world.sids, out
    )
    return load_ranker(out, world.corpus, world.sids)


@pytest.fixture(scope="module")
def exported(small: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Ranker, Path]:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    folder = tmp_path_factory.mktemp("export")
    features = {"time_of_day": True, "sid_bigrams": True, "sid_gate": True}
    ranker = trained(small, folder / "ranker", features=features, calibration="isotonic")
    export_ranker(ranker, small.corpus, folder / "out", users=True)
    return ranker, folder / "out"


def eager(ranker: Ranker, inputs: dict[str, torch.Tensor]) -> np.ndarray:
    from dasrec.ranking.export.export import _logits

    return _logits(ranker, inputs).numpy()


@pytest.mark.parametrize(("rows", "length"), [(1, 1), (1, 10), (7, 3), (40, 10)])
def test_graphs_give_the_models_logits(
    exported: tuple[Ranker, Path], small: Any, rows: int, length: int
) -> None:
    ranker, folder = exported
    inputs = sample_inputs(ranker, small.corpus, rows)
    inputs["history"] = inputs["history"][:, -length:]
    expected = eager(ranker, inputs)
    outputs = run_onnx(folder / "model.onnx", inputs)
    graph = torch.export.load(folder / "model.pt2").module()
    for logit, probability in (outputs, [x.detach().numpy() for x in graph(*inputs.values())]):
        np.testing.assert_allclose(logit, expected, atol=1e-5)
        np.testing.assert_allclose(probability, ranker.probability(expected), atol=1e-5)


def test_manifest_says_how_near_they_are(exported: tuple[Ranker, Path]) -> None:
    manifest = json.loads((exported[1] / "manifest.json").read_text())
    assert set(manifest["metrics"]["largest_difference"]) == {"torch", "onnx"}
    assert max(manifest["metrics"]["largest_difference"].values()) < 1e-5


def test_schema_names_the_inputs_of_the_graph(exported: tuple[Ranker, Path]) -> None:
    import onnxruntime

    schema = json.loads((exported[1] / "schema.json").read_text())
    session = onnxruntime.InferenceSession(str(exported[1] / "model.onnx"))
    assert [put.name for put in session.get_inputs()] == list(schema["inputs"])
    assert [put.name for put in session.get_outputs()] == list(schema["outputs"])
    types = [put.type for put in session.get_inputs()]
    assert types == [f"tensor({x['dtype']})" for x in schema["inputs"].values()]


def scorer_of(folder: Path) -> Any:
    spec = importlib.util.spec_from_file_location("exported_score", folder / "score.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.CtrScorer(folder)


def test_standalone_scorer_gives_the_rankers_probabilities(
    exported: tuple[Ranker, Path], small: Any
) -> None:
    ranker, folder = exported
    corpus, scorer = small.corpus, scorer_of(folder)
    for user in (0, 7, 29):
        first, last = corpus.user_start[user], corpus.user_start[user + 1]
        history = [f"i{i}" for i in corpus.item_idx[first:last]]
        items, size = ["i3", "i59", "nowhere"], 3
        got = scorer.score(items, history, f"u{user}", context={"timestamp": 1_650_012_345})
        logits = ranker.score(
            np.full(size, user),
            np.array([3, 59, -1]),
            np.full(size, last),
            context=pl.DataFrame({"timestamp": [1_650_012_345] * size}),
        )
        np.testing.assert_allclose(got, ranker.probability(logits), atol=1e-5)
    # a stranger without history or time
    got = scorer.score(["i3"], [], "nobody")
    unknown, end = np.array([corpus.num_users]), np.array([len(corpus.user_idx)])
    logits = ranker.score(unknown, np.array([3]), end)
    np.testing.assert_allclose(got, ranker.probability(logits), atol=1e-5)


def test_scorer_answers_lines_without_dasrec(exported: tuple[Ranker, Path]) -> None:
    folder = exported[1]
    assert "dasrec" not in (folder / "score.py").read_text()
    request = {"user_id": "u1", "history": ["i3", "i9"], "item_ids": ["i1", "i2"]}
    done = subprocess.run(
        [sys.executable, folder / "score.py"],
        input=json.dumps(request) + "\n",
        capture_output=True,
        text=True,
        check=True,
    )
    answer = json.loads(done.stdout)
    assert answer["item_ids"] == ["i1", "i2"]
    expected = scorer_of(folder).score(["i1", "i2"], ["i3", "i9"], "u1")
    assert answer["probability"] == pytest.approx(expected.tolist(), abs=1e-6)


@pytest.mark.parametrize("backbone", OTHER_BACKBONES)
def test_every_backbone_exports_without_onnx(small: Any, tmp_path: Path, backbone: str) -> None:
    ranker = trained(small, tmp_path / "ranker", model={"backbone": backbone})
    export_ranker(ranker, small.corpus, tmp_path / "out", onnx=False)
    assert not (tmp_path / "out" / "model.onnx").exists()
    assert not (tmp_path / "out" / "user_ids.json").exists()
    got = scorer_of(tmp_path / "out").score(["i3"], ["i9"], user_row=4)
    assert 0 < got[0] < 1
    # the exported copy left the model as it was
    assert not ranker.model.embedding.static_shapes


def test_refuses_a_folder_that_is_taken(exported: tuple[Ranker, Path], small: Any) -> None:
    with pytest.raises(FileExistsError):
        export_ranker(exported[0], small.corpus, exported[1])


def test_piecewise_calibration_equals_interpolation() -> None:
    calibration = Calibration(logits=(-2.0, 0.0, 0.5, 3.0), probabilities=(0.1, 0.1, 0.6, 0.7))
    logits = np.linspace(-4, 5, 101).astype(np.float32)
    got = CalibrationGraph(calibration)(torch.from_numpy(logits)).numpy()
    np.testing.assert_allclose(got, calibration(logits), atol=1e-6)
    platt = Calibration(slope=0.7, intercept=-0.3)
    got = CalibrationGraph(platt)(torch.from_numpy(logits)).numpy()
    np.testing.assert_allclose(got, platt(logits), atol=1e-6)
