"""What a server must know to feed an exported CTR model: schema.json."""

from typing import Any

from dasrec.ranking.export.graph import context_inputs
from dasrec.ranking.features import FeatureSchema
from dasrec.ranking.features.encode import CLIP
from dasrec.ranking.features.fields import CategoricalField, DenseField, NumericField, column_of
from dasrec.ranking.features.schema import FittedField

FORMAT = 1


def contract(schema: FeatureSchema, max_history: int, num_users: int, opset: int) -> dict[str, Any]:
    """Names, types and meaning of inputs and outputs, and how context is encoded."""
    one, two = ["batch"], ["batch", "length"]
    categories = [_category(field) for field in schema.categories("context")]
    numbers = [_number(field) for field in schema.numbers("context")]
    inputs = {
        "user": _tensor("int64", one, f"row of user_ids.json; {num_users} for an unknown user"),
        "item": _tensor("int64", one, "1 + row of item_ids.json; 0 for an unknown item"),
        "history": _tensor(
            "int64", two, f"like item, oldest first, the last {max_history}; 0 on the left"
        ),
        "category": _tensor("int64", [*one, len(categories)], "see context.categories"),
        "number": _tensor("float32", [*one, len(numbers)], "see context.numbers; NaN = missing"),
    }
    names = ("user", "item", "history", *context_inputs(schema))
    return {
        "format": FORMAT,
        "opset": opset,
        "max_history": max_history,
        "unknown_user": num_users,
        "inputs": {name: inputs[name] for name in names},
        "outputs": {
            "logit": _tensor("float32", one, "of the model"),
            "probability": _tensor("float32", one, "of a click, calibrated"),
        },
        "context": {"categories": categories, "numbers": numbers},
    }


def _tensor(dtype: str, shape: list[Any], meaning: str) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "meaning": meaning}


def _category(field: FittedField) -> dict[str, Any]:
    """Row 0 is missing or unknown; see `dasrec.ranking.features.encode` for the rules."""
    spec = field.spec
    assert not isinstance(spec, DenseField)
    entry: dict[str, Any] = {"name": spec.name, "column": column_of(spec)}
    if isinstance(spec, NumericField):
        return entry | {"encoding": "buckets", "edges": list(field.edges)}
    assert isinstance(spec, CategoricalField)
    if spec.hash_size is not None:
        return entry | {"encoding": "hash", "hash_size": spec.hash_size, "salt": spec.name}
    return entry | {"encoding": "vocabulary", "values": list(field.values)}


def _number(field: FittedField) -> dict[str, Any]:
    assert not isinstance(field.spec, DenseField)
    return {
        "name": field.spec.name,
        "column": column_of(field.spec),
        "mean": field.mean,
        "std": field.std,
        "clip": CLIP,
    }
