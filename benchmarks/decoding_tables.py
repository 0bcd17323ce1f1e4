"""The tables of the decoding benchmark, each from the rows of one section."""

from collections.abc import Callable

from benchmarks.decoding_cells import Row, axes, milliseconds, percent, rows_of, table, text, times


def checks(document: Row) -> str:
    """What was verified."""
    rows = rows_of(document, "checks")
    compared = [row for row in document["rows"] if row.get("same_result") is not None]
    if not compared:
        return ""
    same = sum(row["same_result"] for row in compared)
    lines = [f"* {same} of {len(compared)} comparisons gave the same result."]
    for row in rows:
        figures = ", ".join(f"{k.replace('_', ' ')}: {text(v)}" for k, v in row["ours"].items())
        lines.append(f"* {row['case']['what']}: {figures} ({row['compared']}).")
    largest = [r["largest_score_difference"] for r in compared if "largest_score_difference" in r]
    if largest:
        lines.append(
            f'* Against `generate`: normalize="full" gave the same items and scores on'
            f" {len(largest)} problems; largest difference of a score {max(largest):.1g}."
        )
    return "### Checked\n\n" + "\n".join(lines)


def main(document: Row) -> str:
    """All contenders."""
    rows = rows_of(document, "main")
    if not rows:
        return ""
    head = (
        "vocabulary, codes, beams", "ms per user", "nested / level", "nested / trie",
        "nested / full", "strings / level", "free / level", "reused / level", "level / floor",
        "constraint",
    )  # fmt: skip
    lines = []
    for row in rows:
        case = row["case"]
        lines.append(
            [
                f"{case['text_tokens']:,} + {case['codes']}, {case['beams']}",
                milliseconds(row, "ours", "level"),
                times(row, "nested", "level"),
                times(row, "nested", "trie"),
                times(row, "nested", "full"),
                times(row, "strings", "level"),
                times(row, "free", "level"),
                times(row, "reused", "level"),
                f"{1 / row['ratio']['floor']['level']:.2f}x",
                percent(row["ours"]["level"]["share"]["constraint"]),
            ]
        )
    case = rows[0]["case"]
    return (
        "### Against `generate`\n\nPeer seconds over ours, by normalisation; ms are of ours with"
        f' "level". {case["items"]:,} items, prompts of {case["history"]} tokens, batches of'
        f" {case['batch']}, {case['layers']} layers of width {case['width']}. `constraint`: trie,"
        " filters and the choice of beams, as a share of ours. Ours can be below the"
        " floor: the last layer runs in full for a prompt's last position only, and"
        ' "trie" leaves out beams that have nothing to choose.\n\n' + table(head, lines)
    )


def growth(document: Row) -> str:
    """Beams, history and batch, with the rows of the main table where they belong."""
    rows = rows_of(document, "growth")
    if not rows:
        return ""
    parts = []
    for axis, points in axes(document).items():
        lines = [
            [
                f"{row['case'][axis]:,}",
                milliseconds(row, "ours", "level"),
                milliseconds(row, "ours", "trie"),
                milliseconds(row, "peers", "floor"),
                milliseconds(row, "peers", "reused"),
                milliseconds(row, "peers", "nested"),
                times(row, "nested", "level"),
                times(row, "reused", "level"),
            ]
            for row in points
        ]
        head = (axis, "level", "trie", "floor", "reused", "nested", "nested / level",
                "reused / level")  # fmt: skip
        parts.append(table(head, lines))
    return "### How it grows\n\nCPU milliseconds per user.\n\n" + "\n\n".join(parts)


def items(document: Row) -> str:
    """Catalogues of any size."""
    lines = []
    for row in rows_of(document, "items"):
        for size in row["by_items"]:
            dicts = size.get("dicts", {})
            ratio = None
            if "nested" in size["peers"]:
                ours = size["ours"]["level"]["cpu_seconds"]
                ratio = f"{size['peers']['nested']['cpu_seconds'] / ours:.1f}x"
            lines.append(
                [
                    f"{row['case']['codes']}, {size['items']:,}",
                    1000 * size["ours"]["level"]["cpu_seconds"] / row["case"]["batch"],
                    f"{size['slower_than_smallest']:.2f}x",
                    ratio,
                    size["build_seconds"],
                    size["bytes_per_item"],
                    size["predicate_ms"],
                    dicts.get("build_seconds"),
                    dicts.get("bytes_per_item"),
                ]
            )
    head = ("codes, items", "ms per user", "to the smallest", "nested / level", "build s",
            "bytes per item", "predicate ms", "dicts: build s",
            "dicts: bytes per item")  # fmt: skip
    return "### Catalogues\n\n" + table(head, lines) if lines else ""


def filters(document: Row) -> str:
    """What filters cost."""
    parts = []
    for row in rows_of(document, "filters"):
        case = row["case"]
        lines = [
            [name, 1000 * figures["cpu_seconds"] / case["batch"], row["slower_than_none"][name],
             percent(row["share"][name]["constraint"])]
            for name, figures in row["ours"].items()
        ]  # fmt: skip
        parts.append(
            f"### Filters\n\n{case['items']:,} items, {case['beams']} beams, batches of"
            f" {case['batch']}; the predicate holds for a tenth of the items,"
            f" {case['excluded_per_user']} are excluded per user.\n\n"
            + table(("filter", "ms per user", "to none", "constraint"), lines)
        )
    return "\n\n".join(parts)


def latency(document: Row) -> str:
    """One request at a time."""
    lines = [
        [f"{row['case']['beams']} beams, {name}", figures["p50_ms"], figures["p95_ms"],
         figures["requests"]]
        for row in rows_of(document, "latency")
        for name, figures in (row["ours"] | row["peers"]).items()
    ]  # fmt: skip
    head = ("batch 1", "p50 ms", "p95 ms", "requests")
    title = "### One request at a time\n\nBy the clock.\n\n"
    return title + table(head, lines) if lines else ""


def memory(document: Row) -> str:
    """Peaks."""
    rows = rows_of(document, "memory")
    if not rows:
        return ""
    names = list(rows[0]["ours"] | rows[0]["peers"])
    lines = [
        [f"{row['case']['text_tokens']:,} + {row['case']['codes']}"]
        + [(row["ours"] | row["peers"])[name]["peak_mb"] for name in names]
        for row in rows
    ]
    case = rows[0]["case"]
    return (
        "### Peak memory\n\nMiB beside the model, in a process of its own: batches of"
        f" {case['batch']}, {case['history']} tokens, {case['beams']} beams.\n\n"
        + table(["vocabulary", *names], lines)
    )


def trained(document: Row) -> str:
    """A model that has learnt its catalogue."""
    rows = rows_of(document, "trained")
    if not rows:
        return ""
    lines = [
        [
            f"{row['case']['generator']}, {row['case']['beams']}",
            milliseconds(row, "ours", "level"),
            times(row, "nested", "level"),
            times(row, "nested", "full"),
            times(row, "reused", "level"),
            percent(row["ours"]["level"]["share"]["constraint"]),
            percent(row["proven"]["top_1"]),
            percent(row["proven"]["top_10"]),
        ]
        for row in rows
    ]
    head = ("generator, beams", "ms per user", "nested / level", "nested / full",
            "reused / level", "constraint", "proven top 1",
            "proven top 10")  # fmt: skip
    first = rows[0]
    return (
        f"### A trained model\n\n{first['parameters']:,} parameters, {first['items']:,} items,"
        f" vocabulary {first['vocabulary']:,}, real prompts of up to {first['longest_prompt']}"
        f" tokens in batches of {first['batch']}. `proven`: users whose first items are"
        " certified to be those of scoring the whole catalogue.\n\n" + table(head, lines)
    )


PARTS: tuple[Callable[[Row], str], ...] = (
    checks, main, growth, items, filters, latency, memory, trained,
)  # fmt: skip
