"""Stage: RankingModel -> a folder that a server without dasrec can score with."""

import json
import logging
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dasrec.core import check_free
from dasrec.core.artifacts import Manifest, write_artifact
from dasrec.core.corpus import Corpus
from dasrec.core.seeding import generator
from dasrec.ranking.export.contract import contract
from dasrec.ranking.export.graph import CtrGraph, context_inputs
from dasrec.ranking.ranker import Ranker
from dasrec.ranking.rows import Batch
from dasrec.ranking.score import HistoryEnds

log = logging.getLogger(__name__)

OPSET = 20
CHECKED_ROWS = 256
TOLERANCE = 1e-4
"""Largest difference of a logit between the exported graphs and the model."""

STANDALONE = Path(__file__).parent / "standalone"


def export_ranker(
    ranker: Ranker,
    corpus: Corpus,
    out: Path,
    *,
    onnx: bool = True,
    users: bool = False,
    replace: bool = False,
) -> Manifest:
    """Write the model by torch.export and as ONNX, and all that is needed to feed it.

    Both graphs hold the lookup tables of users and items and the calibration; they take any number
    of rows and any length of history up to the model's. They are compared with the model on rows
    of the corpus before the folder appears.

    Args:
        ranker: from `load_ranker`.
        corpus: the one it was loaded with.
        out: directory of the new `ranking_export` artifact; its README lists the files.
        onnx: write model.onnx too, which needs the extra `onnx`.
        users: write the users' ids. They may be personal data; without them a server must know
            the rows of its users.
        replace: overwrite `out`.

    Raises:
        FileExistsError: `out` is taken.
        ValueError: the packages of the extra `onnx` are missing, or an exported graph does not
            give the model's logits.
    """
    check_free(out, replace)
    if onnx:
        check_onnx()
    assert ranker.manifest is not None
    inputs = sample_inputs(ranker, corpus)
    program = _program(ranker, inputs)
    differences: dict[str, float] = {}

    def payload(scratch: Path) -> None:
        torch.export.save(program, scratch / "model.pt2")
        graph = torch.export.load(scratch / "model.pt2").module()
        differences["torch"] = _difference(ranker, inputs, graph(*inputs.values())[0])
        if onnx:
            _write_onnx(program, list(inputs), scratch / "model.onnx")
            logits = run_onnx(scratch / "model.onnx", inputs)[0]
            differences["onnx"] = _difference(ranker, inputs, torch.from_numpy(logits))
        _write_tables(scratch, ranker, corpus, users)

    return write_artifact(
        out,
        "ranking_export",
        {"onnx": onnx, "users": users, "opset": OPSET},
        {"ranking_model": ranker.manifest, "corpus": corpus.manifest},
        payload,
        metrics={"largest_difference": differences},
        replace=replace,
    )


def check_onnx() -> None:
    """Refuse to go on without the packages that write and run ONNX.

    Raises:
        ValueError: one is missing.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"rank export: {error.name} is not installed; pip install 'dasrec[onnx]', or leave "
            "ONNX out with --no-onnx"
        ) from None
    del onnx, onnxruntime


def sample_inputs(ranker: Ranker, corpus: Corpus, rows: int = CHECKED_ROWS) -> dict[str, Tensor]:
    """Inputs of the graph by name: random pairs with their histories, unknown ones among them."""
    random = generator(0, "ranking", "export")
    user = random.integers(0, corpus.num_users + 1, rows)
    item = random.integers(-1, corpus.num_items, rows)
    schema = ranker.model.schema
    categories = [random.integers(0, f.num_rows, rows) for f in schema.categories("context")]
    numbers = random.normal(size=(rows, len(schema.numbers("context")))).astype(np.float32)
    numbers[::7] = np.nan
    context = {
        "category": np.stack(categories, axis=1) if categories else np.zeros((rows, 0), np.int64),
        "number": numbers,
    }
    device = ranker.source.device
    columns = (user, item, HistoryEnds(corpus).latest(user), *context.values())
    batch = ranker.source.batch(*(torch.from_numpy(column).to(device) for column in columns))
    names = ("user", "item", "history", *context)
    found = {name: values.cpu() for name, values in zip(names, batch[:-1], strict=True)}
    return {k: v for k, v in found.items() if k not in context or k in context_inputs(schema)}


def run_onnx(path: Path, inputs: dict[str, Tensor]) -> list[np.ndarray]:
    """Outputs of an ONNX file by onnxruntime, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    outputs: list[np.ndarray] = session.run(None, {k: v.numpy() for k, v in inputs.items()})
    return outputs


def _program(ranker: Ranker, inputs: dict[str, Tensor]) -> torch.export.ExportedProgram:
    longest = ranker.source.max_length
    batch = torch.export.Dim("batch", min=1, max=1 << 20)
    rows: dict[int, Any] = {0: batch}
    # An example of length 1 would fix the length.
    history = torch.zeros(len(inputs["history"]), longest, dtype=torch.int64)
    history[:, longest - inputs["history"].shape[1] :] = inputs["history"]
    dims = rows if longest == 1 else rows | {1: torch.export.Dim("length", min=1, max=longest)}
    example = {**inputs, "history": history}
    context = tuple(rows for _ in context_inputs(ranker.model.schema))
    shapes = (rows, rows, dims, *([context] if context else []))
    graph = CtrGraph(ranker.model, ranker.calibration, ranker.source.newest_user_sids())
    return torch.export.export(graph, tuple(example.values()), dynamic_shapes=shapes)


def _write_onnx(program: torch.export.ExportedProgram, names: list[str], path: Path) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # tells of torchvision's absence
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside the exporter
        written = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=names,
            output_names=["logit", "probability"],
            verbose=False,
        )
    assert written is not None
    written.save(path)


def _difference(ranker: Ranker, inputs: dict[str, Tensor], logit_B: Tensor) -> float:
    expected = _logits(ranker, inputs)
    difference = float((logit_B.detach() - expected).abs().max())
    if not difference <= TOLERANCE:
        raise ValueError(
            f"rank export: the exported graph differs from the model by {difference:.2g} in a "
            f"logit (at most {TOLERANCE:g} is allowed); report this with the model's config"
        )
    return difference


def _logits(ranker: Ranker, inputs: dict[str, Tensor]) -> Tensor:
    """The model's own, by the way it is trained and asked for scores."""
    device = ranker.source.device
    user, item, history = (inputs[name].to(device) for name in ("user", "item", "history"))
    category = inputs.get("category", torch.zeros(len(user), 0, dtype=torch.int64)).to(device)
    number = inputs.get("number", torch.zeros(len(user), 0)).to(device)
    with torch.inference_mode():
        logit_B: Tensor = ranker.model(
            Batch(user, item, history, category, number, ranker.source.newest_user_sids()[user])
        )
    return logit_B.cpu()


def _write_tables(scratch: Path, ranker: Ranker, corpus: Corpus, users: bool) -> None:
    """Everything but the graphs."""
    schema = contract(ranker.model.schema, ranker.source.max_length, corpus.num_users, OPSET)
    _write_json(scratch / "schema.json", schema)
    _write_json(scratch / "item_ids.json", corpus.items["item_id"].cast(str).to_list())
    if users:
        _write_json(scratch / "user_ids.json", corpus.users["user_id"].cast(str).to_list())
    for name in ("score.py", "README.md"):
        shutil.copyfile(STANDALONE / name, scratch / name)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")
