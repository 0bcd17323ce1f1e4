"""An artifact is a directory: payload files plus manifest.json. Written once, never edited.

The manifest says what the artifact is, which config and which input artifacts made it, and the
digest of every payload file, so that a stage can refuse inputs that do not belong together.
"""

import dataclasses
import functools
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """Provenance of one artifact."""

    kind: str
    config: dict[str, Any]
    inputs: dict[str, str]  # input name -> fingerprint of that input artifact
    files: dict[str, str]  # payload file -> sha256
    seed: int = 0
    code: str = ""  # version and commit that wrote it
    metrics: dict[str, Any] = dataclasses.field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    @property
    def recipe(self) -> str:
        """Digest of what the artifact is made from: kind, config, inputs, seed, schema."""
        return recipe_digest(self.kind, self.config, self.inputs, self.seed)

    @property
    def fingerprint(self) -> str:
        """Digest of what the artifact is made from and of every byte that it holds.

        Metrics (which hold timings) and the code version are left out: two runs of one recipe
        that wrote the same bytes have the same fingerprint.
        """
        return _digest([self.recipe, self.files])


def recipe_digest(
    kind: str, config: Mapping[str, Any], inputs: Mapping[str, str], seed: int
) -> str:
    """Digest of a stage's recipe; equal recipes make equal artifacts."""
    return _digest([kind, SCHEMA_VERSION, config, inputs, seed])


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


@functools.cache
def code_version() -> str:
    """`dasrec` version plus, in a checkout, `git describe`."""
    try:
        installed = version("dasrec")
    except PackageNotFoundError:
        installed = "unknown"
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--tags"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return installed
    return f"{installed}+{described}"


def check_free(path: Path, replace: bool) -> None:
    """Refuse a path that is taken; a long stage asks before it starts.

    Raises:
        FileExistsError: `path` exists and `replace` is false.
    """
    if path.exists() and not replace:
        raise FileExistsError(
            f"{path} exists; artifacts are never overwritten: choose another folder or remove it"
        )


def write_artifact(
    path: str | Path,
    kind: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, Manifest],
    write_payload: Callable[[Path], None],
    *,
    seed: int = 0,
    metrics: Mapping[str, Any] | None = None,
    replace: bool = False,
) -> Manifest:
    """Write an artifact atomically: readers see the whole directory or none of it.

    Args:
        path: the directory to create.
        kind: e.g. "semantic_ids".
        config: the JSON-able config of the stage.
        inputs: manifests of the artifacts it was built from, by input name.
        write_payload: writes the files into the (scratch) directory it is given.
        seed: the seed of the run.
        metrics: figures to keep beside the artifact (not part of its fingerprint).
        replace: swap an artifact that is already there for the new one.

    Raises:
        FileExistsError: `path` exists and `replace` is false.
    """
    path = Path(path)
    check_free(path, replace)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        write_payload(scratch)
        manifest = Manifest(
            kind=kind,
            config=dict(config),
            inputs={name: item.fingerprint for name, item in inputs.items()},
            files={
                p.relative_to(scratch).as_posix(): file_sha256(p)
                for p in sorted(scratch.rglob("*"))
                if p.is_file()
            },
            seed=seed,
            code=code_version(),
            metrics=dict(metrics or {}),
        )
        (scratch / MANIFEST).write_text(json.dumps(dataclasses.asdict(manifest), indent=2) + "\n")
        _move(scratch, path)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return manifest


def link_artifact(source: Path, path: Path) -> None:
    """Put an artifact in a second place, in the place of what is there.

    Its files are hard links where the file system has them, and copies elsewhere: artifacts are
    never edited, and removing one place leaves the other whole.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        shutil.copytree(source, scratch, copy_function=_link)
        _move(scratch, path)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copy2(source, target)


def _move(scratch: Path, path: Path) -> None:
    """Swap a finished scratch directory for what is at `path`, if anything."""
    if path.exists():
        old = path.with_name(f".{path.name}.old.{os.getpid()}")
        path.rename(old)
        scratch.rename(path)
        shutil.rmtree(old)
    else:
        scratch.rename(path)


def load_manifest(path: str | Path, kind: str, built_from: Mapping[str, Manifest] = {}) -> Manifest:
    """Read and check a manifest.

    Args:
        path: the artifact directory.
        kind: the kind the caller needs, e.g. "semantic_ids".
        built_from: artifacts this one must have been built from, by input name.

    Raises:
        FileNotFoundError: there is no artifact at `path`.
        ValueError: wrong kind or schema version, or built from other inputs than those given.
    """
    path = Path(path)
    try:
        manifest = Manifest(**json.loads((path / MANIFEST).read_text()))
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(
            f"{path}: no '{kind}' artifact here ({MANIFEST} is missing)"
        ) from None
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(f"{path}/{MANIFEST}: not a dasrec manifest ({error})") from None
    if manifest.kind != kind:
        raise ValueError(f"{path}: expected a '{kind}' artifact, found '{manifest.kind}'")
    if manifest.schema_version != SCHEMA_VERSION:
        raise ValueError(
            f"{path}: schema version {manifest.schema_version}, this code reads {SCHEMA_VERSION}; "
            "make it again with this version"
        )
    for name in manifest.files:
        if not (path / name).exists():
            raise ValueError(f"{path}: file {name} is in the manifest but missing; make it again")
    for name, other in built_from.items():
        if manifest.inputs.get(name) != other.fingerprint:
            raise ValueError(
                f"{path}: was built from {name} {manifest.inputs.get(name)}, "
                f"but {name} {other.fingerprint} was given; make it again from this {name}"
            )
    return manifest


def verify_files(path: str | Path, manifest: Manifest) -> None:
    """Compare every payload file with its recorded sha256.

    Raises:
        ValueError: a file was changed after the artifact was written.
    """
    for name, digest in manifest.files.items():
        if file_sha256(Path(path) / name) != digest:
            raise ValueError(
                f"{path}/{name}: changed since the artifact was written; make it again"
            )


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def work_dir(path: str | Path, recipe: str) -> Path:
    """The directory for checkpoints of an unfinished artifact; emptied when the recipe changed.

    Sits beside the artifact as `.NAME.work`, so that an interrupted stage finds it again.
    """
    path = Path(path)
    work = path.with_name(f".{path.name}.work")
    key = work / "recipe"
    if work.exists() and (not key.exists() or key.read_text() != recipe):
        shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)
    key.write_text(recipe)
    return work
