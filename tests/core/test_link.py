import os
from pathlib import Path

import pytest

from dasrec.core import load_manifest, write_artifact
from dasrec.core.artifacts import link_artifact


@pytest.mark.parametrize("linkable", [True, False])
def test_a_linked_artifact_is_whole_and_its_own(
    linkable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def payload(path: Path) -> None:
        (path / "deep").mkdir()
        (path / "deep" / "x").write_text("1")

    if not linkable:

        def refuse(source: str, target: str) -> None:
            raise OSError("another disk")

        monkeypatch.setattr(os, "link", refuse)
    made = write_artifact(tmp_path / "a", "thing", {}, {}, payload)
    write_artifact(tmp_path / "b" / "here", "other", {}, {}, lambda path: None)
    link_artifact(tmp_path / "a", tmp_path / "b" / "here")  # in the place of what was there
    assert load_manifest(tmp_path / "b" / "here", "thing").fingerprint == made.fingerprint
    shared = (tmp_path / "b" / "here" / "deep" / "x").stat().st_ino
    assert (shared == (tmp_path / "a" / "deep" / "x").stat().st_ino) == linkable
    write_artifact(tmp_path / "a", "thing", {"new": 1}, {}, lambda path: None, replace=True)
    assert (tmp_path / "b" / "here" / "deep" / "x").read_text() == "1"
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["here"]
