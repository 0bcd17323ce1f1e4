"""docs/results.md, generated from the lines of docs/results/*.jsonl and from nothing else."""

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from dasrec.eval.published import PublishedLine, published_parts
from dasrec.eval.result_line import ComparisonLine, ResultLine
from dasrec.eval.results_rows import Rows, cost_table, interval_table, metric_table
from dasrec.eval.results_tables import shows_costs, tables_of
from dasrec.eval.tables import markdown_table, number

HEAD = (
    "# Results\n\nGenerated from `docs/results/*.jsonl` by `dasrec report`; do not edit. The "
    "latest line of every (dataset, protocol, method, variant, seed) counts. Several seeds: mean ± "
    "standard deviation (n - 1). Tie-free tables hold only the targets on a later day "
    "than the event before them. Intervals are 95% bootstrap intervals over users; of several "
    "seeds each end is averaged. ARP: mean training interactions of the listed items; popularity "
    "gap: how far their mean lies above that of the users' histories, as a share of it. "
    "Paired comparisons average a query over the seeds, then draw "
    "users: bootstrap interval, randomisation test, Holm's adjustment over the methods of one "
    "metric. Published figures are what others report, written by hand with their source; no test "
    "compares them with ours. How each row of ours was measured is in its footnote, and what the "
    "protocols mean in [protocol.md](protocol.md)."
)
LADDER = "ladder"
"""The topic whose tables stand beside published figures."""
K = TypeVar("K")
V = TypeVar("V")
Data = tuple[str, str, str]  # topic, dataset, protocol


def results_markdown(
    lines: Sequence[ResultLine],
    comparisons: Sequence[ComparisonLine] = (),
    published: Sequence[PublishedLine] = (),
) -> str:
    """See `dasrec.eval.results.results_table`; every figure comes from these lines."""
    of_data = dict(_grouped(lines, _data))
    compared = dict(_grouped(comparisons, _data))
    reported = dict(_grouped(published, lambda line: (LADDER, *line.place)))
    parts, notes = [HEAD], []
    for topic, group in _grouped([*of_data, *compared, *reported], lambda data: data[0]):
        parts.append(f"## {topic}")
        for data in dict.fromkeys(group):
            parts.append(f"### {data[1]}, {data[2]}")
            for found, described in (
                _metric_parts(data, of_data.get(data, []), reported.get(data, [])),
                _comparison_parts(data, compared.get(data, [])),
            ):
                parts += found
                notes += described
    return "\n\n".join([*parts, "\n".join(notes)]).rstrip() + "\n"


def _data(line: ResultLine | ComparisonLine) -> Data:
    return line.topic, line.dataset, line.protocol


def _metric_parts(
    data: Data, lines: Sequence[ResultLine], published: Sequence[PublishedLine]
) -> tuple[list[str], list[str]]:
    """Titles and tables of one data set, and the footnotes of their rows."""
    parts, notes = [], []
    shown: set[str] = set()
    for split in ("test", "valid", "train"):
        rows = _rows(line for line in lines if line.split == split)
        names = [_label(data, split, i) for i in range(1, len(rows) + 1)]
        for title, text in _tables(data[0], split, rows, names):
            if text and title not in shown:
                parts += [f"**{title}**", text]
                shown.add(title)
            if title == "test":
                parts += published_parts(published)
        notes += [_note(name, seeds) for name, (_, seeds) in zip(names, rows, strict=True)]
    return parts, notes


def _tables(topic: str, split: str, rows: Rows, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Title and text of all tables of a split, in order; an empty text where there is nothing."""
    for table in tables_of(topic):
        if split == "test" or not table.test_only:
            of_split = [split] if table.every_split else []
            title = ", ".join([*of_split, *([table.title] if table.title else [])])
            yield title, metric_table(rows, table, names)
        if not table.title:
            yield f"{split}, 95% intervals over users", interval_table(rows, names)
    if shows_costs(topic):
        yield "wall-clock seconds (mean of the seeds) and hardware", cost_table(rows, names)


def _label(data: Data, *more: object) -> str:
    """Of a footnote, different for every row of the page."""
    return "-".join(map(str, (*data, *more))).replace("/", "-")


def _grouped(values: Iterable[V], key: Callable[[V], K]) -> list[tuple[K, list[V]]]:
    groups: dict[K, list[V]] = {}
    for value in values:
        groups.setdefault(key(value), []).append(value)
    return list(groups.items())


def _rows(lines: Iterable[ResultLine]) -> Rows:
    """The latest line of every run, by method and variant, in the order of first appearance."""
    latest = {line.run: line for line in lines}
    return _grouped(latest.values(), lambda line: (line.method, line.variant))


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
        *_conditions(seeds),
        *([seconds] if seconds else []),
        f"config {', '.join(dict.fromkeys(line.config_sha256[:12] for line in seeds))}",
        f"data {', '.join(dict.fromkeys(line.data_sha256[:12] for line in seeds))}",
        f"code {all_of('code')}",
        all_of("date"),
    ]
    return f"[^{name}]: {'; '.join(facts)}"


def _conditions(seeds: list[ResultLine]) -> list[str]:
    """What a reader must know of how the lists were made, where the lines say it."""
    words: dict[str, Callable[[Any], str]] = {
        "exclude_seen": lambda left_out: f"seen items {'left out' if left_out else 'listed'}",
        "history": "history {}".format,
        "beams": "{} beams".format,
    }
    found = []
    for field, word in words.items():
        values = dict.fromkeys(line.conditions.get(field) for line in seeds)
        found += [word(value) for value in values if value is not None]
    return [", ".join(found)] if found else []


def _comparison_parts(data: Data, lines: Sequence[ComparisonLine]) -> tuple[list[str], list[str]]:
    """Titles and tables of the latest comparisons, and the footnotes of their rows."""
    latest = {line.run: line for line in lines}
    parts, notes = [], []
    for (baseline, split), group in _grouped(latest.values(), lambda x: (x.baseline, x.split)):
        header = ["method", "metric", "seeds", "users", baseline, "method's", "difference"]
        header += ["95% interval", "p", "p (Holm)"]
        by_seed = any(line.p_seeds is not None for line in group)
        header += ["p (seeds)"] if by_seed else []
        cells = []
        for number_, line in enumerate(group, 1):
            name = _label(data, split, baseline, number_)
            cells.append(
                [
                    f"{line.method}[^{name}]",
                    line.metric,
                    str(len(line.seeds)),
                    str(line.users),
                    *map(number, (line.mean_baseline, line.mean_method)),
                    f"{line.difference:+.4f}",
                    f"{line.low:+.4f} to {line.high:+.4f}",
                    *(f"{p:.2g}" for p in (line.p_value, line.p_holm)),
                    *([_p_text(line.p_seeds)] if by_seed else []),
                ]
            )
            notes.append(_comparison_note(name, line))
        title = f"**{split}, {baseline} minus the method, paired over users**"
        parts += [title, markdown_table(header, cells, left=2)]
    return parts, notes


def _p_text(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


def _comparison_note(name: str, line: ComparisonLine) -> str:
    seeds = ", ".join(map(str, line.seeds))
    facts = [f"`{line.command}`", f"seeds {seeds}", line.hardware, f"data {line.data_sha256[:12]}"]
    return f"[^{name}]: {'; '.join([*facts, f'code {line.code}', line.date])}"
