"""Methods compared over run directories whose seeds number users and items differently."""

import json
import re
from math import log2
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest

from dasrec.cli.main import main
from dasrec.core import Corpus, Manifest, load_corpus, write_artifact
from dasrec.core.corpus import save_corpus_payload
from dasrec.eval.paired import compare_with, load_runs
from dasrec.eval.protocol import read_protocol
from dasrec.eval.result_line import ComparisonLine
from dasrec.eval.results import append_comparisons, read_comparisons, results_table
from dasrec.eval.significance import compare, holm

USERS = [f"u{n}" for n in range(30)]
ITEMS = [f"i{n}" for n in range(12)]
PLACES = {user: [4, 5] if n % 3 else [4] for n, user in enumerate(USERS)}  # test events of users
Ranks = dict[tuple[str, int], int | None]


class Made(NamedTuple):
    path: Path
    ranks: dict[str, Ranks]  # method -> (user, place) -> rank


def draw_ranks(seed: int, best: int) -> Ranks:
    """Ranks of all test events, some of them missing; a larger `best` is a worse method."""
    rng = np.random.default_rng(seed)
    drawn = {(u, p): int(rng.integers(1, 8 + best)) for u in USERS for p in PLACES[u]}
    return {key: rank if rank <= 15 else None for key, rank in drawn.items()}


def write_corpus(path: Path, seed: int, prepare: str = "x", items: int = 0) -> Corpus:
    """Equal events for every seed, users and items numbered by it."""
    rng = np.random.default_rng(seed)
    users, catalogue = rng.permutation(USERS).tolist(), rng.permutation(ITEMS).tolist()
    rows = [(u, place) for u in users for place in range(PLACES[u][-1] + 1)]
    named = [ITEMS[(USERS.index(u) + 5 * place + items) % len(ITEMS)] for u, place in rows]

    def payload(scratch: Path) -> None:
        save_corpus_payload(
            scratch,
            user_idx=np.array([users.index(u) for u, _ in rows], np.int32),
            item_idx=np.array([catalogue.index(i) for i in named], np.int32),
            timestamp=np.arange(len(rows)),
            split=np.array([2 * (place in PLACES[u]) for u, place in rows], np.int8),
            users=pl.DataFrame({"user_id": users}),
            items=pl.DataFrame({"item_id": catalogue}),
            impressions=None,
        )

    raw = Manifest(kind="raw", config={}, inputs={}, files={"log.csv": "0"})
    config = {"prepare": prepare, "split": {"method": "column"}}
    write_artifact(path, "corpus", config, {"raw": raw}, payload, seed=seed)
    return load_corpus(path)


def write_report(run: Path, corpus: Corpus, method: str, ranks: Ranks, **settings: object) -> None:
    rows = np.flatnonzero(corpus.split == 2)
    users = corpus.users["user_id"].to_list()
    numbers = corpus.user_idx[rows].tolist()
    table = pl.DataFrame(
        {
            "query": rows,
            "user_idx": corpus.user_idx[rows],
            "rank": pl.Series(
                [
                    ranks.get((users[u], int(row - corpus.user_start[u])))
                    for u, row in zip(numbers, rows, strict=True)
                ],
                dtype=pl.Int32,
            ),
            "split": ["test"] * len(rows),
        }
    )

    def payload(scratch: Path) -> None:
        (scratch / "report.json").write_text(json.dumps({}))
        protocol = read_protocol(corpus, corpus.manifest).as_json() | settings
        (scratch / "protocol.json").write_text(json.dumps(protocol))
        table.write_parquet(scratch / "per_query.parquet")

    write_artifact(
        run / "reports" / method,
        "eval_report",
        {"method": method},
        {"corpus": corpus.manifest},
        payload,
    )


def make_run(path: Path, seed: int, methods: dict[str, int], **corpus_options: object) -> Made:
    corpus = write_corpus(path / "corpus", seed, **corpus_options)  # type: ignore[arg-type]
    ranks = {m: draw_ranks(100 * seed + n, n) for m, n in methods.items()}
    for method, of_method in ranks.items():
        write_report(path, corpus, method, of_method)
    return Made(path, ranks)


def ndcg(rank: int | None) -> float:
    return 1 / log2(rank + 1) if rank is not None and rank <= 10 else 0.0


def test_seeds_are_averaged_query_by_query_before_users_are_drawn(tmp_path: Path) -> None:
    methods = {"das": 0, "tiger": 6, "plum": 1}
    made = [make_run(tmp_path / str(seed), seed, methods) for seed in (2, 0, 1)]
    results = compare_with("das", load_runs([run.path for run in made]), ["ndcg@10"])
    assert [(r.method, r.seeds) for r in results] == [("plum", [0, 1, 2]), ("tiger", [0, 1, 2])]
    keys = [(user, place) for user in USERS for place in PLACES[user]]
    for result in results:
        values = {
            method: [np.mean([ndcg(run.ranks[method][key]) for run in made]) for key in keys]
            for method in (result.method, "das")
        }
        users = [USERS.index(user) for user, _ in keys]
        expected = compare(values[result.method], values["das"], users)
        assert result.comparison == pytest.approx(expected)
        assert result.comparison.num_users == len(USERS)
    assert results[1].comparison.difference > 0  # the baseline is better
    p = [r.comparison.p_value for r in results]
    assert [r.p_holm for r in results] == pytest.approx(holm(p).tolist())


def test_a_method_is_compared_on_the_runs_that_hold_it(tmp_path: Path) -> None:
    one = make_run(tmp_path / "a", 0, {"das": 0, "tiger": 4, "plum": 2})
    two = make_run(tmp_path / "b", 1, {"das": 0, "tiger": 4})
    runs = load_runs([one.path, two.path])
    results = compare_with("das", runs, ["recall@5"])
    assert {r.method: r.seeds for r in results} == {"plum": [0], "tiger": [0, 1]}
    hits = [rank is not None and rank <= 5 for rank in one.ranks["das"].values()]
    assert results[0].comparison.mean_b == pytest.approx(np.mean(hits))


def test_unlike_protocols_are_refused_unless_allowed(tmp_path: Path) -> None:
    made = make_run(tmp_path / "a", 0, {"das": 0})
    corpus, ranks = load_corpus(made.path / "corpus"), draw_ranks(1, 1)
    write_report(made.path, corpus, "tiger", ranks, exclude_seen=True, beams=20)
    write_report(made.path, corpus, "letter", ranks, exclude_seen=False, beams=50)
    runs = load_runs([made.path])
    with pytest.raises(
        ValueError, match=r"unlike protocols: exclude_seen \(.*letter: false, .*tig"
    ):
        compare_with("letter", runs, ["ndcg@10"])
    with pytest.raises(ValueError, match=r"unlike protocols: beams \(.*\(--allow beams\)"):
        compare_with("letter", runs, ["ndcg@10"], allow=["exclude_seen"])
    allowed = compare_with("letter", runs, ["ndcg@10"], allow=["exclude_seen", "beams"])
    assert {result.method for result in allowed} == {"das", "tiger"}
    (made.path / "reports" / "tiger" / "protocol.json").unlink()
    with pytest.raises(ValueError, match=r"reports/tiger: file protocol.json is in the manifest"):
        load_runs([made.path])


def test_the_command_records_what_was_allowed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make_run(tmp_path / "a", 0, {"das": 0})
    write_report(made.path, load_corpus(made.path / "corpus"), "tiger", draw_ranks(1, 1), beams=20)
    write_report(made.path, load_corpus(made.path / "corpus"), "letter", draw_ranks(1, 2), beams=50)
    (made.path / "results.json").write_text(json.dumps({"dataset": "demo"}))
    command = ["compare", str(made.path), "--baseline", "letter", "--record", str(tmp_path / "r")]
    codes = []
    for allowed in ([], ["--allow", "beams"]):
        with pytest.raises(SystemExit) as done:
            main([*command, *allowed])
        codes.append(done.value.code)
    assert codes == [2, 0]
    assert "allow the difference (--allow beams)" in capsys.readouterr().err
    lines = read_comparisons(tmp_path / "r")
    assert {line.method for line in lines} == {"das", "tiger"}
    assert lines[0].command.endswith("--split test --allow beams")


def test_runs_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    methods = {"das": 0, "tiger": 4}
    one = make_run(tmp_path / "a", 0, methods).path
    other = make_run(tmp_path / "b", 1, methods, prepare="y").path
    again = make_run(tmp_path / "c", 0, methods).path
    moved = make_run(tmp_path / "d", 1, methods, items=1).path
    with pytest.raises(ValueError, match=r"a and .*b hold different corpora"):
        load_runs([one, other])
    with pytest.raises(ValueError, match=r"are runs of one seed \(0\)"):
        load_runs([one, again])
    with pytest.raises(ValueError, match=r"d/reports/tiger holds other queries of .*/a/rep"):
        compare_with("das", load_runs([one, moved]), ["ndcg@10"])
    runs = load_runs([one])
    with pytest.raises(ValueError, match="no run has a report of 'letter'"):
        compare_with("letter", runs, ["ndcg@10"])
    with pytest.raises(ValueError, match="holds no query of valid"):
        compare_with("das", runs, ["ndcg@10"], split="valid")
    with pytest.raises(ValueError, match="unknown metric 'auc@10'"):
        compare_with("das", runs, ["auc@10"])
    (tmp_path / "e").mkdir()
    write_corpus(tmp_path / "e" / "corpus", 5)
    with pytest.raises(ValueError, match="holds no reports"):
        load_runs([tmp_path / "e"])
    write_report(tmp_path / "e", load_corpus(one / "corpus"), "das", draw_ranks(0, 0))
    with pytest.raises(ValueError, match=r"reports/das is about another corpus"):
        load_runs([tmp_path / "e"])


def comparison(**changes: object) -> ComparisonLine:
    values: dict[str, object] = {
        "topic": "tokenizers", "dataset": "beauty", "protocol": "leave_one_out/full/item",
        "split": "test", "metric": "ndcg@10", "baseline": "das", "method": "tiger",
        "seeds": (0, 1), "users": 30, "mean_baseline": 0.05, "mean_method": 0.04,
        "difference": 0.01, "low": -0.002, "high": 0.022, "p_value": 0.0312, "p_holm": 0.0624,
        "hardware": "2 CPU cores, 24 GiB", "command": "dasrec compare a b", "data_sha256": "d",
        "code": "0.1.0", "date": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    return ComparisonLine(**(values | changes))  # type: ignore[arg-type]


def test_the_page_shows_the_latest_comparison(tmp_path: Path) -> None:
    lines = [comparison(difference=0.5), comparison(), comparison(method="plum", p_holm=1.0)]
    append_comparisons(tmp_path, *lines)
    assert read_comparisons(tmp_path) == lines
    page = results_table(tmp_path)
    rows = re.findall(r"^\| (?:tiger|plum).*$", page, re.MULTILINE)
    assert len(rows) == 2
    shown = "| ndcg@10 | 2 | 30 | 0.0500 | 0.0400 | +0.0100 | -0.0020 to +0.0220 | 0.031 | 0.062 |"
    assert rows[0].endswith(shown)
    assert "**test, das minus the method, paired over users**" in page
    marks = set(re.findall(r"\[\^([^]]+)\] \|", page))
    assert marks == set(re.findall(r"^\[\^([^]]+)\]:", page, re.MULTILINE))
    assert "p (seeds)" not in page
    append_comparisons(tmp_path, comparison(method="plum", p_seeds=0.207))
    page = results_table(tmp_path)
    assert "| p (Holm) | p (seeds) |" in page
    ends = re.findall(r"^\| (tiger|plum).* \| (\S+) \|$", page, re.MULTILINE)
    assert ends == [("tiger", "-"), ("plum", "0.21")]
    bad = lines[0].as_json() | {"seeds": "0"}
    (tmp_path / "comparisons" / "tokenizers.jsonl").write_text(json.dumps(bad) + "\n")
    with pytest.raises(ValueError, match=r"comparisons/tokenizers.jsonl:1.seeds"):
        read_comparisons(tmp_path)
