"""`dasrec embed` on generated data."""

from pathlib import Path

import pytest

from dasrec.cli.main import main
from dasrec.core import load_corpus, load_embeddings

CONFIG = Path(__file__).parents[2] / "configs" / "quickstart.yaml"


def dasrec(command: str, out: Path, *arguments: str, items: int = 60) -> None:
    sizes = ["synthetic.num_users=60", f"synthetic.num_items={items}", "embed.lsa.dim=8"]
    with pytest.raises(SystemExit) as ended:
        main([command, str(CONFIG), *sizes, *arguments, "--out", str(out)])
    assert ended.value.code == 0


def test_a_later_catalogue_goes_through_the_earlier_encoders(tmp_path: Path) -> None:
    for name, items in (("old", 60), ("new", 80)):
        dasrec("prepare", tmp_path / name, items=items)
    earlier = tmp_path / "old" / "embeddings"
    modality = "embed.more.cf.encoder=cooccurrence"
    dasrec("embed", tmp_path / "old", modality)
    dasrec("embed", tmp_path / "new", modality, "--fitted-on", str(earlier), items=80)
    old = load_embeddings(earlier)
    new = load_embeddings(tmp_path / "new" / "embeddings", load_corpus(tmp_path / "new" / "corpus"))
    assert list(new.modalities) == ["text", "cf"]
    assert len(new.items) > len(old.items)
    assert new.space == old.space
