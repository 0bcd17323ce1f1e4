"""`dasrec describe` and `dasrec embed` on generated data."""

from pathlib import Path
from typing import Any

import pytest
from tests.core.fake_endpoint import Answer, reply, serving

from dasrec.cli.main import main
from dasrec.core import load_corpus, load_embeddings
from dasrec.core.descriptions import load_descriptions

CONFIG = Path(__file__).parents[2] / "configs" / "quickstart.yaml"


def dasrec(command: str, out: Path, *arguments: str, items: int = 60, code: int = 0) -> None:
    sizes = ["synthetic.num_users=60", f"synthetic.num_items={items}", "embed.lsa.dim=8"]
    with pytest.raises(SystemExit) as ended:
        main([command, str(CONFIG), *sizes, *arguments, "--out", str(out)])
    assert ended.value.code == code


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


def test_describe_then_embed(tmp_path: Path) -> None:
    def one_word(_: int, body: dict[str, Any]) -> Answer:
        facts = body["messages"][0]["content"].rsplit("\n", 1)[-1]
        return reply(["sofa", "table", "shelf"][len(facts) % 3])

    out = tmp_path / "run"
    with serving(one_word) as server:
        chosen = [
            f"describe.endpoint={{base_url: '{server.url}', model: m}}",
            "embed.items.source=descriptions",
            "embed.lsa={dim: 2, min_df: 1}",
            "seed=5",
        ]
        for command in ("prepare", "describe", "embed"):
            dasrec(command, out, *chosen)
        asked = len(server.bodies)
        dasrec("describe", out, *chosen)
    assert asked == len(server.bodies)
    corpus = load_corpus(out / "corpus")
    written = load_descriptions(out / "descriptions", corpus)
    assert set(written.items["text"]) == {"sofa", "table", "shelf"}
    made = load_embeddings(out / "embeddings", corpus)
    assert made.manifest.inputs["descriptions"] == written.manifest.fingerprint
    assert (out / "descriptions_cache.jsonl").exists()


def test_descriptions_need_their_section(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dasrec("prepare", tmp_path, code=0)
    dasrec("embed", tmp_path, "embed.items.source=descriptions", code=2)
    assert "needs the section 'describe'" in capsys.readouterr().err
    dasrec("describe", tmp_path, code=2)
    assert "the config has no section 'describe'" in capsys.readouterr().err
