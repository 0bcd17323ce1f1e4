"""The layout's promises: one namespace, one way to import, layers that point downwards."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STAGES = ["tokenizer", "generative", "ranking", "baselines", "eval"]
FOLDERS = ["core", *STAGES]
# module prefix -> what it may import of ours
ALLOWED = {
    "core": {"core"},
    # eval's pure metric functions may validate a model inside its stage
    **{stage: {"core", stage, "eval"} for stage in STAGES},
    "cli": {"cli", "core", *STAGES},
}


def sources() -> list[Path]:
    return sorted(p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("folder", FOLDERS)
def test_dasrec_stays_a_namespace(folder: str) -> None:
    # One stray dasrec/__init__.py would hide the other four folders.
    assert not (ROOT / folder / "dasrec" / "__init__.py").exists()
    assert (ROOT / folder / "dasrec" / folder / "py.typed").exists()


def test_every_folder_is_named_in_pyproject() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert tool["hatch"]["build"]["dev-mode-dirs"] == FOLDERS
    assert tool["hatch"]["build"]["targets"]["wheel"]["sources"] == FOLDERS
    assert tool["mypy"]["mypy_path"] == FOLDERS
    assert tool["coverage"]["run"]["source"] == FOLDERS


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downwards(path: Path) -> None:
    own = path.relative_to(ROOT).parts[2].removesuffix(".py")
    for node in ast.walk(ast.parse(path.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            if name.split(".")[0] == "dasrec":
                assert name.split(".")[1] in ALLOWED[own], f"dasrec.{own} may not import {name}"
