import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.decomposition import PCA

from dasrec.cli.main import main
from dasrec.cli.sids import labels, write_report
from dasrec.core import Corpus, Embeddings, SidTable, save_sids_payload, write_artifact
from dasrec.tokenizer.report.charts import usage_bars, usage_chart
from dasrec.tokenizer.report.glossary import arrange
from dasrec.tokenizer.report.maps import principal_plane
from dasrec.tokenizer.report.tree import Node, Texts, build_tree, typical_words

MakeWorld = Callable[..., tuple[Corpus, Embeddings]]
HOSTILE = '</script><img src=x onerror=alert(1)> & "Tom\'s"'


class Page(HTMLParser):
    """Elements, table cells and JSON of a page; fails on tags that do not nest."""

    VOID = ("meta",)

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.strong: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data
        if "strong" in self.open:
            self.strong.append(data)
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def make_sids(
    run: Path,
    name: str,
    inputs: tuple[Corpus, Embeddings],
    *,
    seed: int = 0,
    metrics: dict[str, float] | None = None,
    collisions: str = "share",
) -> Path:
    corpus, embeddings = inputs
    rng = np.random.default_rng(seed)
    books = (rng.normal(size=(5, 3)).astype(np.float32), rng.normal(size=(4, 3)).astype("f4"))
    codes = np.column_stack([rng.integers(5, size=40), rng.integers(4, size=40)])
    z = books[0][codes[:, 0]] + books[1][codes[:, 1]]
    table = SidTable(codes.astype(np.uint16), (5, 4), z, books)
    manifests = {"corpus": corpus.manifest, "embeddings": embeddings.manifest}
    write_artifact(
        run / "sids" / name,
        "semantic_ids",
        {"collisions": collisions},
        manifests,
        lambda path: save_sids_payload(path, table, None),
        metrics={"item/gini": 0.125 + seed, "seconds": "two"} if metrics is None else metrics,
    )
    return run / "sids" / name


@pytest.fixture
def world(make_world: MakeWorld) -> tuple[Path, tuple[Corpus, Embeddings]]:
    corpus, embeddings = make_world("run")
    titles = [HOSTILE if i == 0 else f"Nail polish {i}" for i in range(corpus.num_items)]
    items = pl.read_parquet(corpus.path / "items.parquet").with_columns(title=pl.Series(titles))
    items.write_parquet(corpus.path / "items.parquet")
    return corpus.path.parent, (corpus, embeddings)


def test_page_is_whole_and_needs_nothing_else(
    world: tuple[Path, tuple[Corpus, Embeddings]], tmp_path: Path
) -> None:
    run, inputs = world
    paths = [make_sids(run, "a", inputs), make_sids(run, "b", inputs, seed=1)]
    out = tmp_path / "new" / "page.html"
    beside = write_report(paths, out, None, None)
    text = out.read_text()
    page = Page(text)

    # SVG and script carry no address either, and the policy forbids every request.
    links = [v for _, a in page.elements for k, v in a.items() if k in ("src", "href", "srcset")]
    assert links == ["#figures", "#usage", "#map", "#tree"]
    assert "://" not in text
    assert "@import" not in text
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in links if link} <= set(ids)
    assert page.count("img") == 0
    assert page.count("canvas") == 2
    assert page.count("svg") == 4
    assert page.count("details") > 10

    data = json.loads(page.scripts[0])
    assert data["titles"][0] == HOSTILE
    assert data["maps"][1]["codes"][3] == np.load(paths[1] / "items.codes.npy")[3].tolist()
    assert max(data["maps"][0]["x"] + data["maps"][0]["y"]) == data["grid"]

    figures = json.loads(beside.read_text())["tokenizers"]
    assert list(figures) == ["a", "b"]
    assert figures["b"]["figures"]["item/gini"] == 1.125  # as recorded
    assert "seconds" not in figures["a"]["figures"]
    row = next(row for row in page.rows if row[0].startswith("Gini of rows per SID"))
    assert row[1:] == ["0.125", "1.125"]
    assert "0.125" in page.strong
    assert "1.125" not in page.strong
    of_copurchase = [row[1] for row in page.rows if row[0].startswith("Co-purchases together")]
    assert of_copurchase[0] == f"{figures['a']['figures']['item/copurchase_1']:.4g}"

    first = out.read_bytes(), beside.read_bytes()
    write_report(paths, out, inputs[0].path, run / "embeddings")
    assert (out.read_bytes(), beside.read_bytes()) == first
    assert sorted(p.name for p in out.parent.iterdir()) == ["page.html", "page.json"]


def test_codes_before_a_policy_that_moved_them_are_not_made_up(
    world: tuple[Path, tuple[Corpus, Embeddings]], tmp_path: Path
) -> None:
    path = make_sids(world[0], "a", world[1], metrics={}, collisions="reassign_last")
    beside = write_report([path], tmp_path / "page.html", None, None)
    figures = json.loads(beside.read_text())["tokenizers"]["a"]["figures"]
    assert "item/test_targets_colliding" in figures
    assert not any("_before" in name for name in figures)


def test_errors_name_what_is_missing(
    world: tuple[Path, tuple[Corpus, Embeddings]], make_world: MakeWorld, tmp_path: Path
) -> None:
    run, inputs = world
    path, out = make_sids(run, "a", inputs), tmp_path / "page.html"
    lost = make_sids(tmp_path / "elsewhere", "a", inputs)
    with pytest.raises(ValueError, match=r"no corpus at .*elsewhere/corpus; name the folder with "):
        write_report([lost], out, None, None)
    with pytest.raises(ValueError, match=r"no embeddings at .*; name the folder with --embeddings"):
        write_report([lost], out, inputs[0].path, None)
    with pytest.raises(ValueError, match="is given twice"):
        write_report([path, path], out, None, None)
    with pytest.raises(ValueError, match=r"ends in \.html, got page"):
        write_report([path], Path("page"), None, None)
    other = make_world("other", held_out_seed=1)
    with pytest.raises(ValueError, match="was built from corpus"):
        write_report([path, make_sids(run.parent / "other", "b", other)], out, None, None)
    assert not out.exists()


def test_command_prints_what_was_recorded(
    world: tuple[Path, tuple[Corpus, Embeddings]],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    paths = [str(make_sids(world[0], name, world[1], seed=i)) for i, name in enumerate("ab")]
    for arguments, code in (
        (paths, 0),
        (paths[:1], 0),
        ([*paths, "--corpus", "x"], 2),
        ([*paths, "--out", str(tmp_path / "x.html")], 0),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["sids", "report", *arguments])
        assert stop.value.code == code
    printed = capsys.readouterr()
    assert "| figure | a | b |\n| --- | --- | --- |\n| item/gini | 0.125 | 1.125 |" in printed.out
    assert f"## {paths[0]}\n\n| figure | value |" in printed.out
    assert "add --out FILE.html" in printed.err
    assert (tmp_path / "x.json").exists()


def test_labels_are_the_shortest_that_differ() -> None:
    assert labels([Path("r/sids/a"), Path("r/sids/b")]) == ["a", "b"]
    assert labels([Path("r/sids/a"), Path("s/sids/a")]) == ["r/sids/a", "s/sids/a"]


def test_figures_are_arranged_with_nothing_lost() -> None:
    names = ["odd@x@y", "user/usage_1", "item/purity_2", "alignment_recall@50", "item/usage_0"]
    found = [(title, [(r.name, r.part) for r in rows]) for title, rows in arrange(names)]
    assert found == [
        ("Code usage", [("item/usage_0", "level 1")]),
        ("Neighbourhoods", [("item/purity_2", "first 2 codes")]),
        ("Behaviour in z", [("alignment_recall@50", "K = 50")]),
        ("Users: code usage", [("user/usage_1", "level 2")]),
        ("Other", [("odd@x@y", "")]),
    ]


def test_plane_agrees_with_scikit_learn() -> None:
    z = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32) * np.arange(1, 7)
    plane, share = principal_plane(z)
    oracle = PCA(2, svd_solver="full").fit(z)
    assert share == pytest.approx(oracle.explained_variance_ratio_.sum(), rel=1e-5)
    np.testing.assert_allclose(np.abs(plane), np.abs(oracle.transform(z)), rtol=1e-4, atol=1e-4)
    flipped, _ = principal_plane(z[::-1])
    np.testing.assert_allclose(flipped[::-1], plane, atol=1e-6)
    line, share = principal_plane(z[:, :1])
    assert share == pytest.approx(1)
    assert (line[:, 1] == 0).all()
    assert principal_plane(np.ones((3, 2), np.float32))[1] == 0


def test_usage_bars_by_hand() -> None:
    assert usage_bars(np.array([1, 5, 0])).tolist() == [5, 1, 0]
    many = usage_bars(np.arange(512))
    assert len(many) == 256
    assert many[:2].tolist() == [510.5, 508.5]
    # Axis from y = 8 (count 4) to y = 92 (count 0): 4 is at 8, 2 at 50; even use (3) at 29.
    chart = usage_chart(np.array([2, 4]), 4, "text")
    assert 'd="M34 92V8.0H176.0V50.0H318.0V92Z"' in chart
    assert 'class="even" d="M34 29.0H318"' in chart


def flat(nodes: list[Node]) -> list[Node]:
    return [each for node in nodes for each in (node, *flat(node.children))]


def test_tree_counts_prefixes_and_shows_the_popular(
    world: tuple[Path, tuple[Corpus, Embeddings]],
) -> None:
    corpus, _ = world[1]
    rng = np.random.default_rng(0)
    codes = np.column_stack([np.arange(40) % 30, rng.integers(9, size=40), np.zeros(40), [7] * 40])
    books = (np.zeros((30, 2), np.float32),) * 3
    table = SidTable(codes.astype(np.uint16), (30, 9, 1, 8), np.zeros((40, 2), "f4"), books)
    popularity = rng.permutation(40)
    nodes, hidden = build_tree(table, Texts.of(corpus), popularity)
    assert len(nodes) == 24
    assert hidden == 6
    assert [node.size for node in nodes] == [2] * 10 + [1] * 14
    titles = corpus.items["title"].to_list()
    categories = corpus.items["category"].to_list()
    for node in flat(nodes):
        inside = np.flatnonzero((codes[:, : len(node.prefix)] == node.prefix).all(1)).tolist()
        assert node.size == len(inside)
        assert node.titles == [titles[i] for i in sorted(inside, key=lambda i: -popularity[i])][:3]
        of_node = [categories[i] for i in inside]
        assert node.category_share == of_node.count(node.category) / len(inside)
        assert node.category_share == max(map(of_node.count, of_node)) / len(inside)
    assert max(len(node.prefix) for node in flat(nodes)) == 3


def test_words_are_those_that_set_titles_apart() -> None:
    titles = pl.Series(["Nail polish red", "nail file", "Red nail gel", "Polish nail", "nail"])
    frequency = {"nail": 0.01, "polish": 0.1, "red": 0.9, "file": 0.9, "gel": 0.01}
    # p log(p / q): nail 4.6, gel 0.2 * 3 = 0.6, polish 0.4 * 1.39 = 0.55, red and file below 0
    assert typical_words(titles, frequency) == ["nail", "gel", "polish"]
    assert typical_words(titles[:4], frequency) == []
