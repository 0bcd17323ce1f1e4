"""The tables of the results page: one row for all seeds of a method and variant."""

import statistics
from collections.abc import Callable, Sequence

from dasrec.eval.result_line import ResultLine
from dasrec.eval.results_tables import STAGES, TableOf
from dasrec.eval.tables import COLUMNS, markdown_table, number

Rows = list[tuple[tuple[str, str], list[ResultLine]]]  # (method, variant) -> lines of its seeds

LEAD = ["method", "variant", "seeds", "users"]


def metric_table(rows: Rows, table: TableOf, names: Sequence[str]) -> str:
    """The table of the rows that have a figure for it; empty without any.

    Args:
        rows: lines of one split.
        table: which metrics.
        names: of the rows' footnotes.
    """
    found = dict.fromkeys(key for _, seeds in rows for line in seeds for key in line.metrics)
    columns = [key for key in table.order if key in found and table.wanted(key)]
    columns += [key for key in found if table.wanted(key) and key not in columns]

    def cells(seeds: list[ResultLine]) -> list[str]:
        values = {k: [line.metrics[k] for line in seeds if k in line.metrics] for k in columns}
        took = {k: [line.seconds[k] for line in seeds if k in line.seconds] for k in table.seconds}
        means = [_mean(values[key], len(seeds)) for key in columns]
        return means + [_mean_seconds(took[stage]) for stage in table.seconds]

    kept = _with_any(rows, names, lambda line: any(key in line.metrics for key in columns))
    titles = [*map(table.header, columns), *(f"{stage} s" for stage in table.seconds)]
    return _markdown(kept, titles, cells)


def interval_table(rows: Rows, names: Sequence[str]) -> str:
    """Intervals of the rows that have any; several seeds: their ends, each averaged over them.

    Only what has @10 is shown, all queries before slices.
    """
    found = dict.fromkeys(key for _, seeds in rows for line in seeds for key in line.intervals)
    columns = [key for key in COLUMNS if key in found and "@10" in key]
    columns += [key for key in found if "@10" in key and key not in COLUMNS]

    def cells(seeds: list[ResultLine]) -> list[str]:
        ends = {k: [line.intervals[k] for line in seeds if k in line.intervals] for k in columns}
        return [_mean_interval(ends[key]) for key in columns]

    kept = _with_any(rows, names, lambda line: any(key in line.intervals for key in columns))
    return _markdown(kept, columns, cells)


def cost_table(rows: Rows, names: Sequence[str]) -> str:
    """Wall-clock seconds by stage and in all, and the hardware, of the rows that say any.

    A stage that `STAGES` does not name is in the sum, and in the row's footnote.
    """
    said = {stage for _, seeds in rows for line in seeds for stage in line.seconds}
    stages = [stage for stage in STAGES if stage in said]

    def cells(seeds: list[ResultLine]) -> list[str]:
        took = {k: [line.seconds[k] for line in seeds if k in line.seconds] for k in stages}
        total = [sum(line.seconds.values()) for line in seeds if line.seconds]
        hardware = "; ".join(dict.fromkeys(line.hardware for line in seeds))
        return [*(_mean_seconds(took[stage]) for stage in stages), _mean_seconds(total), hardware]

    kept = _with_any(rows, names, lambda line: bool(line.seconds))
    return _markdown(kept, [*(f"{stage} s" for stage in stages), "total s", "hardware"], cells)


def _with_any(
    rows: Rows, names: Sequence[str], has: Callable[[ResultLine], bool]
) -> list[tuple[list[str], list[ResultLine]]]:
    """The first cells and the lines of each row of which a line has something to show."""
    return [
        (
            [
                f"{method}[^{name}]",
                variant or "-",
                str(len(seeds)),
                "/".join(dict.fromkeys(str(line.users) for line in seeds)),
            ],
            seeds,
        )
        for name, ((method, variant), seeds) in zip(names, rows, strict=True)
        if any(has(line) for line in seeds)
    ]


def _markdown(
    kept: list[tuple[list[str], list[ResultLine]]],
    titles: Sequence[str],
    cells: Callable[[list[ResultLine]], list[str]],
) -> str:
    if not kept:
        return ""
    return markdown_table([*LEAD, *titles], [lead + cells(seeds) for lead, seeds in kept], left=2)


def _mean_interval(ends: list[tuple[float, float]]) -> str:
    if not ends:
        return "-"
    low, high = (statistics.mean(values) for values in zip(*ends, strict=True))
    return f"{number(low)} to {number(high)}"


def _mean_seconds(values: list[float]) -> str:
    return f"{statistics.mean(values):.0f}" if values else "-"


def _mean(values: list[float], num_seeds: int) -> str:
    if len(values) < 2:
        text = number(values[0] if values else None)
    else:
        text = f"{number(statistics.mean(values))} ± {number(statistics.stdev(values))}"
    partial = 0 < len(values) < num_seeds
    return f"{text} ({len(values)} of {num_seeds})" if partial else text
