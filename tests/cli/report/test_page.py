"""The page, and that it says what the data says and nothing else."""

import dataclasses
import doctest
import json
import math
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from tests.cli.report.tiny_run import HOSTILE, make_run

from dasrec.cli.main import main
from dasrec.cli.report import examples, runs, scales, words
from dasrec.cli.report.charts import WIDTH, Dot, Line, interval_plot, line_plot
from dasrec.cli.report.document import Estimate
from dasrec.cli.report.gather import report_document
from dasrec.cli.report.scales import tick_labels, ticks
from dasrec.cli.report.write import write_report

SKILLS = {
    "das": {"valid": 0.4, "test": 0.9},
    "popularity": {"valid": 0.1, "test": 0.1},
}


class Page(HTMLParser):
    """The elements and the text of a page; fails on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("runs")
    return [make_run(root / "a", SKILLS), make_run(root / "b", SKILLS, data=1)]


@pytest.fixture(scope="module")
def written(paths: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The texts of a report on two runs, by suffix."""
    files = write_report(paths, tmp_path_factory.mktemp("page") / "report.html")
    return {path.suffix: path.read_text("utf-8") for path in files}


def test_the_page_stands_alone_and_can_be_read_without_eyes(written: dict[str, str]) -> None:
    page = Page(written[".html"])
    assert not page.all("link")
    assert not page.all("img")
    assert not [s for s in page.all("script") if "src" in s]
    assert not re.search(r"(https?:)?//[a-z]|@import|url\(", written[".html"])
    plots = [svg for svg in page.all("svg") if svg.get("aria-hidden") != "true"]
    assert len(plots) > 10
    assert {svg["role"] for svg in plots} == {"img"}
    assert all(svg.get("aria-label") for svg in plots if svg.get("class") == "plot")
    regions = [div for div in page.all("div") if div.get("class") == "scroll"]
    assert len(regions) > 5
    assert all(div["aria-label"] and div["tabindex"] == "0" for div in regions)
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {a["href"] for a in page.all("a")} == {f"#{name}" for name in ids}
    for words_ in ("Accuracy", "Slices", "Semantic IDs", "Training", "Ranking", "Example users"):
        assert words_ in page.text
    assert len(written[".html"]) < 1_000_000


def test_text_of_data_stays_text(written: dict[str, str]) -> None:
    page = Page(written[".html"])
    assert not page.all("img")
    assert "onerror" not in {name for _, attrs in page.elements for name in attrs}
    assert HOSTILE in page.text
    assert "tiny <data>" in page.text
    assert HOSTILE not in written[".md"]
    assert "<img" not in written[".md"]
    for table in re.findall(r"(?:^\|.*\n)+", written[".md"], re.MULTILINE):
        assert len({line.replace(r"\|", "").count("|") for line in table.splitlines()}) == 1


def test_data_and_markdown_hold_the_figures_of_the_page(
    paths: list[Path], written: dict[str, str]
) -> None:
    doc = report_document(paths)
    data = json.loads(written[".json"])
    assert data == json.loads(json.dumps(dataclasses.asdict(doc)))
    text = Page(written[".html"]).text
    for system in doc.systems:
        for value in system.estimates.values():
            for shown in (text, written[".md"]):
                assert f"{value.mean:.4f}" in shown or f"{value.mean:.0f}" in shown
                assert f"{value.low:.4f} to {value.high:.4f}" in shown
    assert "The protocols differ in filters." in text
    assert "The protocols differ in filters." in written[".md"]
    assert str(paths[0].parent) not in "".join(written.values())


def test_the_same_runs_give_the_same_bytes(
    paths: list[Path], written: dict[str, str], tmp_path: Path
) -> None:
    again = write_report(paths, tmp_path / "again.html")
    assert {path.suffix: path.read_text("utf-8") for path in again} == written


def dasrec(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def test_the_command(paths: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dasrec("report", paths[0], "--method", "das") == 0
    made = [paths[0] / f"report{suffix}" for suffix in (".html", ".json", ".md")]
    assert capsys.readouterr().out.replace("\n", " ").split(", ")[0].endswith("report.html")
    assert [s["method"] for s in json.loads(made[1].read_text())["systems"]] == ["das"]
    for arguments, said in {
        ("report", *paths): "say where the page about several runs goes",
        ("report", *paths, "--out", tmp_path / "page"): "ends in .html",
        ("report", paths[0], "--split", "train"): "expected valid or test, got 'train'",
        ("report", paths[0], "--results", tmp_path): "--results is read without runs only",
        ("report", "--baseline", "das"): "name the runs",
    }.items():
        assert dasrec(*arguments) == 2
        assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def pixels(svg: str, pattern: str) -> list[tuple[float, ...]]:
    return [tuple(map(float, found)) for found in re.findall(pattern, svg)]


def test_dots_stand_where_the_axis_says() -> None:
    values = [Estimate(0.02, 0.01, 0.03), Estimate(0.08, 0.07, 0.1)]
    rows = [("a" * (30 * n), [Dot(n, value, "told")]) for n, value in enumerate(values)]
    for shown in (rows, [(label[:5], dots) for label, dots in rows]):
        svg = interval_plot(shown, "<name>")
        assert 'aria-label="&lt;name&gt;"' in svg
        (x0, _), (x1, _) = pixels(svg, r"translate\(([\d.]+) ([\d.]+)\)")
        ends = pixels(svg, r'whisker s\d" d="M([\d.]+) [\d.]+H([\d.]+)')
        labels = re.findall(r'<text x="([\d.]+)" y="[\d.]+" text-anchor="middle">([^<]*)<', svg)
        at = {float(text): float(x) for x, text in labels}
        scale = (at[0.1] - at[0]) / 0.1
        for (low, high), mark, value in zip(ends, (x0, x1), values, strict=True):
            expected = [at[0] + scale * end for end in (value.low, value.mean, value.high)]
            assert [low, mark, high] == pytest.approx(expected, abs=0.2)
        assert max(high for _, high in ends) <= WIDTH


def test_lines_keep_inside_the_picture() -> None:
    lines = [Line(0, "<a>", (1, 2, 3), (5.0, -1.0, 2.0)), Line(1, "b", (2,), (4.0,))]
    svg = line_plot(lines, "name")
    (path,) = re.findall(r'class="line s0" d="M([^"]*)"', svg)
    points = [tuple(map(float, point.split())) for point in path.split("L")]
    assert points[0][1] < points[2][1] < points[1][1]  # down is up in a picture
    assert all(0 <= x <= WIDTH and 0 <= y <= 190 for x, y in points)
    assert "&lt;a&gt;" in svg
    assert "<a>" not in svg
    assert re.findall(r'text-anchor="middle">([^<]*)<', svg) == ["1", "2", "3"]


@pytest.mark.parametrize("high", [1e-4, 0.083, 1.0, 7.3, 99.0, 12_345.0])
@pytest.mark.parametrize("low", [-50.0, 0.0])
def test_ticks_are_few_round_and_evenly_spaced(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 5
    assert all(low <= value <= high for value in found)
    steps = {round(b - a, 9) for a, b in pairwise(found)}
    assert len(steps) == 1
    digit = min(steps) / 10 ** math.floor(math.log10(min(steps)))
    assert round(digit, 6) in (1, 2, 5, 10)
    assert len(set(tick_labels(found))) == len(found)
    assert all(value == int(value) for value in ticks(1, 3, whole=True))


@pytest.mark.parametrize("module", [examples, runs, scales, words])
def test_the_docstrings_are_right(module: ModuleType) -> None:
    result = doctest.testmod(module, extraglobs={"np": np})
    assert result.attempted > 0
    assert result.failed == 0
