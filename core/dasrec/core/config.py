"""Read a YAML section into a frozen pydantic model. Unknown keys and wrong types are errors."""

import difflib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

C = TypeVar("C", bound="StageConfig")


class StageConfig(BaseModel):
    """Base of every config section: frozen, strict, no unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, validate_default=True, protected_namespaces=()
    )

    def as_json(self) -> dict[str, Any]:
        """All values as JSON types, as kept in manifests."""
        return self.model_dump(mode="json")


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not YAML, or not a mapping. The message names the file and the line.
    """
    try:
        document = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such config file") from None
    except IsADirectoryError:
        raise ValueError(f"{path}: is a folder, expected a YAML file") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not valid YAML: {error}") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ValueError(f"{path}: expected a mapping of sections, got {type(document).__name__}")
    return document


def apply_overrides(document: Mapping[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Set dotted keys: `["tokenizer.epochs=3"]`; values are read as YAML.

    Raises:
        ValueError: an override without `=`.
    """
    result: dict[str, Any] = _deep_copy(document)
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise ValueError(f"override '{override}': expected section.key=value")
        *parents, last = key.split(".")
        node = result
        for name in parents:
            child = node.setdefault(name, {})
            if not isinstance(child, dict):
                raise ValueError(f"override '{override}': '{name}' is not a section")
            node = child
        try:
            node[last] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"override '{override}': not valid YAML: {error}") from None
    return result


def _deep_copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _deep_copy(item) for key, item in value.items()}
    return [_deep_copy(item) for item in value] if isinstance(value, list) else value


def build_config(cls: type[C], values: Mapping[str, Any], where: str) -> C:
    """Validate `values` into `cls`.

    Args:
        cls: the section's model.
        values: plain YAML values.
        where: "file" or "file: section", the start of every message.

    Raises:
        ValueError: one line per fault, naming file, section, key and what was expected.
    """
    try:
        return cls.model_validate(_tuples(cls, values))  # YAML has no tuples
    except ValidationError as error:
        lines = [_explain(cls, fault, where) for fault in error.errors()]
        raise ValueError("\n".join(lines)) from None


def _tuples(cls: Any, values: Any) -> Any:
    """Turn lists into tuples where the model's annotation is a tuple, recursively."""
    origin, args = typing.get_origin(cls), typing.get_args(cls)
    if isinstance(cls, type) and issubclass(cls, BaseModel):
        if not isinstance(values, Mapping):
            return values
        fields = cls.model_fields
        return {
            key: _tuples(fields[key].annotation, value) if key in fields else value
            for key, value in values.items()
        }
    if origin is tuple and isinstance(values, list):
        return tuple(_tuples(args[0], value) for value in values)
    if origin is dict and isinstance(values, Mapping):
        return {key: _tuples(args[1], value) for key, value in values.items()}
    if args and origin is not typing.Literal:
        for arg in args:  # a union: the first member that the value fits in shape
            converted = _tuples(arg, values)
            if converted is not values and converted != values:
                return converted
    return values


def _explain(cls: type[BaseModel], fault: Any, where: str) -> str:
    path = [str(part) for part in fault["loc"]]
    if fault["type"] == "extra_forbidden":
        names = _field_names(cls, path[:-1])
        near = difflib.get_close_matches(path[-1], names, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(names)}"
        return f"{'.'.join([where, *path[:-1]])}: unknown key '{path[-1]}' ({hint})"
    at = ".".join([where, *path])
    if fault["type"] == "missing":
        return f"{at}: required, but missing"
    if fault["type"] == "value_error":
        return f"{at}: {fault['ctx']['error']}"
    message = fault["msg"].removeprefix("Input should be ")
    return f"{at}: expected {message}, got {fault['input']!r}"


def _field_names(cls: type[BaseModel], path: list[str]) -> list[str]:
    model: Any = cls
    for part in path:
        if isinstance(model, type) and issubclass(model, BaseModel) and part in model.model_fields:
            model = model.model_fields[part].annotation
        for arg in typing.get_args(model):
            if isinstance(arg, type) and issubclass(arg, BaseModel):
                model = arg
    return (
        list(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []
    )
