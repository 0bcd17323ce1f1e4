"""docs/results.md, generated from the lines of docs/results/*.jsonl and from nothing else."""

import statistics
from collections.abc import Callable, Iterable
from typing import TypeVar

from dasrec.eval.report import split_key
from dasrec.eval.result_line import ResultLine
from dasrec.eval.tables import COLUMNS, markdown_table, number

HEAD = (
    "# Results\n\nGenerated from `docs/results/*.jsonl` by `dasrec report`; do not edit. The "
    "latest line of every (dataset, protocol, method, variant, seed) counts. Several seeds: mean ± "
    "standard deviation (n - 1). Tie-free tables hold only the targets on a later day "
    "than the event before them. How each row was measured is in its footnote."
)
# In the lines, but too much for a table.
_HIDDEN = {"hr", "mrr", "popularity", "novelty", "gini", "duplicate_rate", "queries"}
_HIDDEN |= {"missing_queries"}

K = TypeVar("K")
Rows = list[tuple[tuple[str, str], list[ResultLine]]]  # (method, variant) -> lines of its seeds


def results_markdown(lines: Iterable[ResultLine]) -> str:
    """See `dasrec.eval.results.results_table`; every figure comes from these lines."""
    parts, notes = [HEAD], []
    for topic, of_topic in _grouped(lines, lambda line: line.topic):
        parts.append(f"## {topic}")
        for (dataset, protocol), of_data in _grouped(of_topic, lambda x: (x.dataset, x.protocol)):
            parts.append(f"### {dataset}, {protocol}")
            for split in ("test", "valid", "train"):
                rows = _rows(line for line in of_data if line.split == split)
                if not rows:
                    continue
                names = [f"{topic}-{dataset}-{split}-{i}" for i in range(1, len(rows) + 1)]
                notes += [_note(name, seeds) for name, (_, seeds) in zip(names, rows, strict=True)]
                parts += [f"**{split}**", _table(rows, _is_shown, names)]
                if any(_is_tie_free(key) for _, seeds in rows for x in seeds for key in x.metrics):
                    parts += [f"**{split}, tie-free**", _table(rows, _is_tie_free, names)]
                if any(_is_slice(key) for _, seeds in rows for x in seeds for key in x.metrics):
                    parts += [f"**{split}, recall@10 by slice**", _table(rows, _is_slice, names)]
    return "\n\n".join([*parts, "\n".join(notes)]).rstrip() + "\n"


def _is_shown(key: str) -> bool:
    metric, part = split_key(key)
    name, _, k = metric.partition("@")
    if part == "all" and name in ("recall", "ndcg"):
        return True
    return part == "all" and name not in _HIDDEN and k in ("", "10")


def _is_tie_free(key: str) -> bool:
    metric, part = split_key(key)
    return part == "tie_free" and metric.partition("@")[0] in ("recall", "ndcg", "queries")


def _is_slice(key: str) -> bool:
    metric, part = split_key(key)
    return metric == "recall@10" and part != "all"


def _grouped(
    lines: Iterable[ResultLine], key: Callable[[ResultLine], K]
) -> list[tuple[K, list[ResultLine]]]:
    groups: dict[K, list[ResultLine]] = {}
    for line in lines:
        groups.setdefault(key(line), []).append(line)
    return list(groups.items())


def _rows(lines: Iterable[ResultLine]) -> Rows:
    """The latest line of every run, by method and variant, in the order of first appearance."""
    latest: dict[tuple[object, ...], ResultLine] = {}
    for line in lines:
        latest[line.run] = line
    return _grouped(latest.values(), lambda line: (line.method, line.variant))


def _table(rows: Rows, wanted: Callable[[str], bool], names: list[str]) -> str:
    found = dict.fromkeys(key for _, seeds in rows for line in seeds for key in line.metrics)
    columns = [key for key in COLUMNS if key in found and wanted(key)]
    columns += [key for key in found if wanted(key) and key not in COLUMNS]
    header = ["method", "variant", "seeds", "users", *columns]
    if wanted is _is_slice:  # the title says what is measured
        header[4:] = [split_key(key)[1] for key in columns]
    if wanted is _is_tie_free:
        header[4:] = [split_key(key)[0] for key in columns]
    cells = [
        [
            f"{method}[^{name}]",
            variant or "-",
            str(len(seeds)),
            "/".join(dict.fromkeys(str(line.users) for line in seeds)),
            *(_mean([line.metrics[key] for line in seeds if key in line.metrics], len(seeds))
              for key in columns),
        ]
        for name, ((method, variant), seeds) in zip(names, rows, strict=True)
    ]  # fmt: skip
    return markdown_table(header, cells, left=2)


def _mean(values: list[float], num_seeds: int) -> str:
    if len(values) < 2:
        text = number(values[0] if values else None)
    else:
        text = f"{number(statistics.mean(values))} ± {number(statistics.stdev(values))}"
    partial = 0 < len(values) < num_seeds
    return f"{text} ({len(values)} of {num_seeds})" if partial else text


def _note(name: str, seeds: list[ResultLine]) -> str:
    def all_of(field: str) -> str:
        return ", ".join(dict.fromkeys(str(getattr(line, field)) for line in seeds))

    took: dict[str, list[float]] = {}
    for line in seeds:
        for stage, value in line.seconds.items():
            took.setdefault(stage, []).append(value)
    seconds = ", ".join(f"{stage} {statistics.mean(v):.0f} s" for stage, v in took.items())
    commands = "; ".join(dict.fromkeys(f"`{line.command}`" for line in seeds))
    facts = [
        commands,
        f"seeds {all_of('seed')}",
        all_of("hardware"),
        *([seconds] if seconds else []),
        f"config {', '.join(dict.fromkeys(line.config_sha256[:12] for line in seeds))}",
        f"data {', '.join(dict.fromkeys(line.data_sha256[:12] for line in seeds))}",
        f"code {all_of('code')}",
        all_of("date"),
    ]
    return f"[^{name}]: {'; '.join(facts)}"
