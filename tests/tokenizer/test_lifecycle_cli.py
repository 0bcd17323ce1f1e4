"""A catalogue that grows, by the commands: new items get SIDs and are generated."""

from pathlib import Path

import polars as pl
import pytest

from dasrec.cli.main import main
from dasrec.core import load_corpus, load_recommendations, load_sids

CONFIG = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
SETTINGS = [
    "synthetic=null",
    "embed.lsa.dim=8",
    "tokenizers={das: {method: das, level_sizes: [4, 8], code_dim: 4, hidden: [8], epochs: 2, "
    "continuous_epochs: 1}}",
    "assign.extra_level_size=40",
    "generator.sft=null",
    "generator.pretrain.base.scratch.options={n_embd: 8, n_layer: 1, n_head: 1, n_positions: 128}",
    "generator.pretrain.base.scratch.text_vocab_size=300",
    "generator.pretrain.validation_queries=0",
    "generator.pretrain.trainer.num_train_epochs=1",
    "generator.retrieve={num_beams: 60, num_items: 60, exclude_seen: never}",
    "ranking=null",
]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


def dasrec(*arguments: str, code: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert ended.value.code == code


def raw_data(root: Path) -> tuple[Path, Path]:
    """The generated log; its first half of the catalogue, as it was when it was published."""
    dasrec("data", "generate", str(root / "new"), "num_users=40", "num_items=50")
    (root / "old").mkdir()
    items = pl.read_parquet(root / "new" / "items.parquet").head(40)
    items.write_parquet(root / "old" / "items.parquet")
    (root / "old" / "users.parquet").write_bytes((root / "new" / "users.parquet").read_bytes())
    log = pl.read_parquet(root / "new" / "impressions.parquet")
    log.filter(pl.col("item_id").is_in(items["item_id"].implode())).write_parquet(
        root / "old" / "impressions.parquet"
    )
    return root / "old", root / "new"


def test_a_growing_catalogue(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = dict(zip(("old", "new"), raw_data(tmp_path / "raw"), strict=True))

    def stage(name: str, run: str, *more: str) -> None:
        paths = ["--data", str(data[run]), "--out", str(tmp_path / run)]
        dasrec(name, str(CONFIG), *SETTINGS, *paths, *more)

    for name in ("prepare", "embed", "tokenize", "assign", "pretrain"):
        stage(name, "old")
    stage("prepare", "new")
    stage("embed", "new", "--fitted-on", str(tmp_path / "old" / "embeddings"))
    stage("assign", "new", "--published", str(tmp_path / "old"))
    stage("retrieve", "new", "--published", str(tmp_path / "old"))

    old, new = (load_sids(tmp_path / run / "sids" / "das") for run in ("old", "new"))
    assert new.lineage == (old.fingerprint,)
    assert old.items.ids is not None
    assert new.items.ids is not None
    fresh = ~new.items.ids.is_in(old.items.ids.implode()).to_numpy()
    assert fresh.any()
    corpus = load_corpus(tmp_path / "new" / "corpus")
    lists = load_recommendations(tmp_path / "new" / "recommendations" / "das", corpus)
    assert set(fresh.nonzero()[0]) <= set(lists.item_idx[0])

    capsys.readouterr()
    dasrec("sids", "churn", *(str(tmp_path / run / "sids" / "das") for run in ("old", "new")))
    printed = capsys.readouterr().out
    assert "| item/sid_changed | 0 |" in printed
    assert "| item/new |" in printed
    arguments = ("--run", str(tmp_path / "new"), "--history", new.items.ids[0], "-k", "3")
    dasrec("recommend", *arguments, "--generator", str(tmp_path / "old" / "bases" / "das"))
    assert "Recommended" in capsys.readouterr().out
