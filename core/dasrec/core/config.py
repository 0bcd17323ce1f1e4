"""Read a YAML section into a frozen pydantic model. Unknown keys and wrong types are errors."""

import difflib
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

C = TypeVar("C", bound="StageConfig")


class StageConfig(BaseModel):
    """Base of every config section: frozen, strict, no unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, validate_default=True, protected_namespaces=()
    )

    def as_json(self) -> dict[str, Any]:
        """All values as JSON types, as kept in manifests."""
        return self.model_dump(mode="json")


class _Loader(yaml.SafeLoader):
    """PyYAML is of YAML 1.1, where 3e-3 is text for want of a point; 1.2 reads a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _parse(text: str) -> Any:
    return yaml.load(text, _Loader)  # a SafeLoader


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not YAML, or not a mapping. The message names the file and the line.
    """
    try:
        document = _parse(Path(path).read_text())
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
        ValueError: an override without `=`, a value that is not YAML, or a key below something
            that is no section.
    """
    values: dict[str, Any] = {}
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise ValueError(f"override '{override}': expected section.key=value")
        try:
            values[key] = _parse(text)
        except yaml.YAMLError as error:
            raise ValueError(f"override '{override}': not valid YAML: {error}") from None
    return set_keys(document, values)


def set_keys(document: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the document with other values of dotted keys, set one after the other.

    Raises:
        ValueError: a key below something that is no section.
    """
    result: dict[str, Any] = _deep_copy(document)
    for key, value in values.items():
        *parents, last = key.split(".")
        node = result
        for name in parents:
            child = node.setdefault(name, {})
            if not isinstance(child, dict):
                raise ValueError(f"key '{key}': '{name}' is not a section")
            node = child
        node[last] = value
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
    if (tagged := _tagged(cls)) is not None:
        tag = values.get(tagged.key) if isinstance(values, Mapping) else None
        return _tuples(tagged.models[tag], values) if tag in tagged.models else values
    if args and origin is not typing.Literal:
        for arg in args:  # a union: the first member that the value fits in shape
            converted = _tuples(arg, values)
            if converted is not values and converted != values:
                return converted
    return values


class _Tagged(NamedTuple):
    """A union of models that are told apart by the value of one key."""

    key: str
    models: dict[Any, type[BaseModel]]


def _tagged(annotation: Any) -> _Tagged | None:
    if typing.get_origin(annotation) is not Annotated:
        return None
    union, *notes = typing.get_args(annotation)
    keys = [note.discriminator for note in notes if isinstance(note, FieldInfo)]
    if not keys or not isinstance(keys[0], str):
        return None
    models = {model.model_fields[keys[0]].default: model for model in typing.get_args(union)}
    return _Tagged(keys[0], models)


def _explain(cls: type[BaseModel], fault: Any, where: str) -> str:
    path, model = _located(cls, [str(part) for part in fault["loc"]])
    at = ".".join([where, *path])
    if fault["type"] == "extra_forbidden":
        names = list(model.model_fields) if model is not None else []
        near = difflib.get_close_matches(path[-1], names, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(names)}"
        return f"{'.'.join([where, *path[:-1]])}: unknown key '{path[-1]}' ({hint})"
    if fault["type"] == "missing":
        return f"{at}: required, but missing"
    if fault["type"] == "union_tag_not_found":
        return f"{at}.{fault['ctx']['discriminator'].strip(chr(39))}: required, but missing"
    if fault["type"] == "union_tag_invalid":
        context = fault["ctx"]
        key = context["discriminator"].strip("'")
        return f"{at}.{key}: expected one of {context['expected_tags']}, got '{context['tag']}'"
    if fault["type"] == "value_error":
        return f"{at}: {fault['ctx']['error']}"
    message = fault["msg"].removeprefix("Input should be ")
    return f"{at}: expected {message}, got {fault['input']!r}"


def _located(cls: type[BaseModel], loc: list[str]) -> tuple[list[str], type[BaseModel] | None]:
    """The keys of a fault's location (without the tags of unions that pydantic puts between
    them), and the model that the last key belongs to."""
    path: list[str] = []
    annotation: Any = cls
    owner: type[BaseModel] | None = None
    for part in loc:
        if (tagged := _tagged(annotation)) is not None and part in tagged.models:
            annotation = tagged.models[part]
            continue
        path.append(part)
        owner = _model_of(annotation)
        if owner is not None and part in owner.model_fields:
            annotation = _annotation(owner.model_fields[part])
        elif typing.get_origin(annotation) is dict:
            annotation = typing.get_args(annotation)[1]
        elif typing.get_origin(annotation) is tuple:
            annotation = typing.get_args(annotation)[0]
    return path, owner


def _annotation(field: FieldInfo) -> Any:
    """A field's type; pydantic takes the discriminator out of an annotated one."""
    if isinstance(field.discriminator, str):
        return Annotated[field.annotation, field]
    return field.annotation


def _model_of(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *typing.get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None
