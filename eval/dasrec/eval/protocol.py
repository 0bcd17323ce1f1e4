"""How a figure was come by: the protocol, written beside it and checked before two are compared.

It is read off the manifests of the lists and of all that they were made from, so it says what was
done, not what a config asked for.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from dasrec.core.artifacts import MANIFEST, Manifest
from dasrec.core.corpus import Corpus
from dasrec.core.texts import ITEM_COLUMNS, USER_COLUMNS

PROTOCOL = "protocol.json"
FILTERS = (
    "positive_label",
    "duplicates",
    "unknown_ids",
    "repeated_ids",
    "min_user_interactions",
    "min_item_interactions",
    "catalogue",
)
"""Options of `prepare` that say which rows count."""

NOT_COMPARED = ("seeds", "code", "not_found")
"""Fields that two comparable figures may differ in."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What has to be equal for two figures to be about the same task, and what made them."""

    data: str
    """Digest of the raw data."""
    filters: dict[str, Any]
    """Which rows count: k-core, duplicates, catalogue, ... (options without a value left out)."""
    order: str
    """What orders a user's events; equal keys keep the order of the file."""
    split: dict[str, Any]
    """Method and options."""
    num_items: int
    """All items are candidates; a hit is an item, not a SID."""
    exclude_seen: bool | None
    """Whether lists leave out what the user had before. None: the lists do not say."""
    history: int | None = None
    """Latest events that the retrieval looked at (a re-ranker may look further back). None: it
    looks at none, or at all of them."""
    beams: int | None = None
    """None: no beam search."""
    text_fields: dict[str, Any] | None = None
    """Columns that were embedded, by side. None: the method reads no embeddings."""
    encoder: dict[str, Any] | None = None
    """What embedded them, by side: name, revision, digest of a file."""
    seeds: dict[str, int]
    """Of every artifact, by kind."""
    code: dict[str, str]
    """Version that wrote each artifact, by kind."""
    not_found: dict[str, str]
    """Inputs whose manifests are not in the run directory: what they hold is not known here."""

    def as_json(self) -> dict[str, Any]:
        """For protocol.json."""
        return asdict(self)


def read_protocol(corpus: Corpus, lists: Manifest) -> Protocol:
    """The protocol of lists made from a corpus.

    Args:
        corpus: RUN/corpus; the manifests of the other artifacts are looked for in RUN.
        lists: manifest of the recommendations.
    """
    found, not_found = _made_from(lists, _manifests(corpus.path.parent))
    prepared = corpus.manifest.config
    embeddings = next((m for m in found if m.kind == "embeddings"), None)
    rule = _first(found, ("exclude_seen",))
    return Protocol(
        data=corpus.manifest.inputs.get("raw", ""),
        filters=_given({name: prepared.get(name) for name in FILTERS}),
        order="column" if "order" in _columns(prepared) else "timestamp",
        split=_given(prepared.get("split", {})),
        num_items=corpus.num_items,
        exclude_seen=None if rule is None else corpus.excludes_seen(rule),
        history=_first(found, ("max_history",), ("prompt", "max_history"), ("max_length",)),
        beams=_first(found, ("num_beams",)),
        text_fields=None if embeddings is None else _text_fields(embeddings, corpus),
        encoder=None if embeddings is None else _encoders(embeddings),
        seeds={m.kind: m.seed for m in reversed(found)},
        code={m.kind: m.code for m in reversed(found)},
        not_found=not_found,
    )


def load_protocol(report: str | Path) -> Protocol | None:
    """The protocol beside a report; None for one that was made before there were protocols."""
    path = Path(report) / PROTOCOL
    return Protocol(**json.loads(path.read_text())) if path.exists() else None


def check_same(
    protocols: Mapping[str, Protocol | None], allow: Collection[str] = (), where: str = "compare"
) -> None:
    """Refuse to compare figures of unlike protocols.

    A method that has no beam, no history or no embeddings is not unlike one that has.

    Args:
        protocols: by what messages call them.
        allow: fields that may differ.
        where: what messages start with.

    Raises:
        ValueError: an unknown field in `allow`, a figure without a protocol, or two that differ in
            a field; the message names all of them.
    """
    compared = [f.name for f in fields(Protocol) if f.name not in NOT_COMPARED]
    if unknown := sorted(set(allow) - set(compared)):
        raise ValueError(f"{where}: no field '{unknown[0]}' to allow; known: {', '.join(compared)}")
    found: dict[str, tuple[str, Any]] = {}
    unlike: dict[str, str] = {}
    for name, protocol in protocols.items():
        if protocol is None:
            raise ValueError(f"{where}: {name} has no {PROTOCOL}; evaluate it again")
        for field in (f for f in compared if f not in allow):
            value = getattr(protocol, field)
            if value is None:
                continue
            first, known = found.setdefault(field, (name, value))
            if known != value and field not in unlike:
                unlike[field] = f"{field} ({first}: {_short(known)}, {name}: {_short(value)})"
    if unlike:
        flags = " ".join(f"--allow {field}" for field in unlike)
        raise ValueError(
            f"{where}: unlike protocols: {'; '.join(unlike.values())}; make the lists alike, or "
            f"allow the difference ({flags})"
        )


def _manifests(run: Path) -> dict[str, Manifest]:
    """All artifacts of a run directory, by fingerprint."""
    found = {}
    for pattern in (f"*/{MANIFEST}", f"*/*/{MANIFEST}"):
        for path in sorted(run.glob(pattern)):
            manifest = Manifest(**json.loads(path.read_text()))
            found[manifest.fingerprint] = manifest
    return found


def _made_from(
    lists: Manifest, known: Mapping[str, Manifest]
) -> tuple[list[Manifest], dict[str, str]]:
    """The lists and what they were made from, nearest first, and inputs that are not known."""
    found, not_found = [lists], {}
    for manifest in found:  # grows while it is read
        for name, fingerprint in manifest.inputs.items():
            if fingerprint in known:
                if known[fingerprint] not in found:
                    found.append(known[fingerprint])
            elif name not in ("raw", "base_files") and not name.endswith(("_file", "_images")):
                not_found[name] = fingerprint
    return found, not_found


def _first(found: list[Manifest], *keys: tuple[str, ...]) -> Any:
    """The value that the nearest of the lists and their models has under one of the keys."""
    for manifest in found:
        if manifest.kind not in ("corpus", "descriptions", "embeddings", "tokenizer"):
            for value in _values(manifest.config, keys):
                return value
    return None


def _values(config: Mapping[str, Any], keys: tuple[tuple[str, ...], ...]) -> Iterator[Any]:
    for key in keys:
        value: Any = config
        for part in key:
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            yield value


def _columns(prepared: Mapping[str, Any]) -> Collection[str]:
    columns: Collection[str] = prepared.get("interactions", {}).get("columns", {})
    return columns


def _text_fields(embeddings: Manifest, corpus: Corpus) -> dict[str, Any]:
    sides = {}
    for name, section in _sections(embeddings).items():
        usual, table = (
            (USER_COLUMNS, corpus.users) if name == "users" else (ITEM_COLUMNS, corpus.items)
        )
        if section["encoder"] not in ("lsa", "sentence_transformers"):
            sides[name] = section["encoder"]
        elif section.get("source", "columns") != "columns":
            sides[name] = section["source"]
        else:
            sides[name] = section["columns"] or [c for c in usual if c in table.columns]
    return sides


def _encoders(embeddings: Manifest) -> dict[str, Any]:
    config, sides = embeddings.config, {}
    for name, section in _sections(embeddings).items():
        options = {"sentence_transformers": "text_model", "images": "images"}
        own = config.get(options.get(section["encoder"], section["encoder"]), {})
        told = {key: own.get(key) for key in ("name", "revision", "max_length", "dim")}
        told |= {key: section.get(key) for key in ("encoder", "pca_dim")}
        told["file"] = embeddings.inputs.get(f"{name}_file")
        sides[name] = _given(told)
    return sides


def _sections(embeddings: Manifest) -> dict[str, dict[str, Any]]:
    config = embeddings.config
    more = {f"more.{name}": section for name, section in config.get("more", {}).items()}
    return {"items": config["items"], **more, "users": config["users"]}


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None and value != {}}


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
