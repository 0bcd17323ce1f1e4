"""Click probabilities from an exported CTR model; needs numpy, and onnxruntime or torch.

Reads one request per line of standard input, writes one answer per line:

    {"user_id": "u1", "history": ["i3", "i9"], "item_ids": ["i1", "i2"], "context": {"tab": 1}}
    {"item_ids": ["i1", "i2"], "probability": [0.31, 0.05]}

`history` is oldest first. `user_row` may stand for `user_id` where user_ids.json is missing.
`context` holds the columns named in schema.json; `timestamp` (seconds, UTC) makes hour and weekday.
"""

import hashlib
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent


class CtrScorer:
    """An exported model and the tables that requests are looked up in."""

    def __init__(self, folder: Path = HERE) -> None:
        """Open the model of a folder: model.onnx where there is one, else model.pt2."""
        self.schema = json.loads((folder / "schema.json").read_text())
        self.item_row = _rows(folder / "item_ids.json")
        self.user_row = _rows(folder / "user_ids.json")
        self.run = _onnx(folder) if (folder / "model.onnx").exists() else _torch(folder)

    def score(
        self,
        item_ids: list[str],
        history: list[str],
        user_id: str | None = None,
        user_row: int | None = None,
        context: dict[str, Any] | None = None,
    ) -> np.ndarray:
        """(B,) click probabilities of B items for one user; what is unknown counts as new."""
        size = len(item_ids)
        latest = history[-self.schema["max_history"] :]
        row = self.user_row.get(str(user_id)) if user_row is None else user_row
        inputs = {
            "user": np.full(size, self.schema["unknown_user"] if row is None else row, np.int64),
            "item": self._items(item_ids),
            "history": np.tile(self._items(latest) if latest else np.zeros(1, np.int64), (size, 1)),
        }
        known = _with_time(context or {})
        categories = [_category(field, known) for field in self.schema["context"]["categories"]]
        numbers = [_number(field, known) for field in self.schema["context"]["numbers"]]
        if categories:
            inputs["category"] = np.tile(np.array(categories, np.int64), (size, 1))
        if numbers:
            inputs["number"] = np.tile(np.array(numbers, np.float32), (size, 1))
        probability: np.ndarray = self.run(inputs)
        return probability

    def _items(self, ids: list[str]) -> np.ndarray:
        """1 + row, 0 for an unknown item."""
        return np.array([1 + self.item_row.get(str(i), -1) for i in ids], np.int64)


def _rows(path: Path) -> dict[str, int]:
    if not path.exists():
        return {}
    return {value: row for row, value in enumerate(json.loads(path.read_text()))}


def _onnx(folder: Path) -> Any:
    import onnxruntime

    path = str(folder / "model.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(["probability"], inputs)[0]


def _torch(folder: Path) -> Any:
    import torch

    graph = torch.export.load(folder / "model.pt2").module()

    def run(inputs: dict[str, np.ndarray]) -> np.ndarray:
        with torch.inference_mode():
            outputs = graph(*(torch.from_numpy(values) for values in inputs.values()))
        probability: np.ndarray = outputs[1].numpy()
        return probability

    return run


def _with_time(context: dict[str, Any]) -> dict[str, Any]:
    if context.get("timestamp") is None:
        return context
    moment = datetime.fromtimestamp(context["timestamp"], UTC)
    return context | {"timestamp.hour": moment.hour, "timestamp.weekday": moment.isoweekday()}


def _category(field: dict[str, Any], context: dict[str, Any]) -> int:
    """Row of a value, 0 where it is missing or unknown."""
    value = context.get(field["column"])
    if value is None:
        return 0
    if field["encoding"] == "buckets":
        return 1 + int(np.searchsorted(field["edges"], _finite(field, value), side="right"))
    text = _text(value)
    if field["encoding"] == "hash":
        key = f"{field['salt']}\0{text}".encode()
        digest = hashlib.blake2b(key, digest_size=8).digest()
        return int.from_bytes(digest) % (int(field["hash_size"]) - 1) + 1
    values: list[str] = field["values"]
    return values.index(text) + 1 if text in values else 0


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _number(field: dict[str, Any], context: dict[str, Any]) -> float:
    value = context.get(field["column"])
    if value is None:
        return float("nan")
    standard = (_finite(field, value) - field["mean"]) / field["std"]
    return float(np.clip(standard, -field["clip"], field["clip"]))


def _finite(field: dict[str, Any], value: Any) -> float:
    number = float(value)
    if not np.isfinite(number):
        raise ValueError(
            f"context '{field['column']}': not a finite number, got {value!r}; give null where it "
            "is missing"
        )
    return number


def main() -> None:
    """Answer the requests of standard input."""
    scorer = CtrScorer()
    for line in sys.stdin:
        request = json.loads(line)
        probability = scorer.score(
            request["item_ids"],
            request.get("history", []),
            request.get("user_id"),
            request.get("user_row"),
            request.get("context"),
        )
        answer = {"item_ids": request["item_ids"], "probability": probability.tolist()}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
