"""`dasrec rank`: train CTR models, compare them, score rows with one, export it."""

from pathlib import Path
from typing import Annotated

import typer

rank_app = typer.Typer(help="The CTR model: train, compare, score, export.", no_args_is_help=True)

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="Run config (YAML).")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE ...]", help="e.g. ranking.train.epochs=3")
]
Out = Annotated[Path, typer.Option("--out", help="Run directory.")]
Data = Annotated[Path | None, typer.Option("--data", help="Folder of the raw data.")]
RunDir = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")]
ModelName = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="A folder of RUN/rankers, or ARM/SEED of RUN/rank_compare; the only one by default.",
    ),
]


@rank_app.command("train")
def train(config: ConfigPath, overrides: Overrides = None, out: Out = Path("runs/default")) -> None:
    """Train the CTR models and re-score the generated candidates (inputs are read from --out)."""
    from dasrec.cli.config import load_run_config
    from dasrec.cli.pipeline import Run

    Run(load_run_config(config, overrides), out, only={"rank"}).execute()


@rank_app.command("compare")
def compare(
    config: ConfigPath,
    overrides: Overrides = None,
    out: Out = Path("runs/default"),
    data: Data = None,
    arms: Annotated[
        list[str] | None, typer.Option("--arm", help="Train only this arm (repeat for several).")
    ] = None,
    seeds: Annotated[
        list[int] | None, typer.Option("--seed", help="Train only this seed (repeat for several).")
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option("--record", help="Append figures to TOPIC.jsonl in this folder."),
    ] = None,
    topic: Annotated[str, typer.Option(help="What the recorded figures are about.")] = "ranking",
) -> None:
    """Which semantic IDs help: arms x seeds, with slices and intervals (RUN/rank_compare).

    With --data the stages before are run too. Finished arms are kept; several calls may work on
    one run side by side.
    """
    from dasrec.cli.config import load_run_config
    from dasrec.cli.rank_compare import compare_rankers, record_comparison, show_comparison
    from dasrec.cli.terminal import terminal
    from dasrec.eval.result_line import check_topic
    from dasrec.eval.results import typed

    check_topic(topic)
    settings = load_run_config(config, overrides)
    report = compare_rankers(settings, out, data, arms or (), seeds or ())
    show_comparison(report, terminal())
    if record is not None:
        parts = ["dasrec", "rank", "compare", str(config), *(overrides or []), "--out", out.name]
        record_comparison(report, settings, out, typed(parts), record, topic)
        typer.echo(f"recorded in {record}")


@rank_app.command("score")
def score(
    run_dir: RunDir,
    source: Annotated[
        Path, typer.Option("--input", help="Parquet with user_id, item_id, perhaps timestamp.")
    ],
    target: Annotated[Path, typer.Option("--output", help="Parquet file to write.")],
    model: ModelName = None,
    allow_unknown: Annotated[
        bool,
        typer.Option("--allow-unknown", help="Score users and items that are new as cold ones."),
    ] = False,
    time_format: Annotated[
        str, typer.Option("--time", help="Of timestamp: seconds, milliseconds, iso, or strptime.")
    ] = "seconds",
) -> None:
    """Add click probabilities to rows, each given the history before its timestamp."""
    from dasrec.cli.rank_model import open_model
    from dasrec.ranking.score import score_table

    opened = open_model(run_dir, model)
    counts = score_table(
        opened.ranker,
        opened.corpus,
        source,
        target,
        allow_unknown=allow_unknown,
        time_format=time_format,
    )
    typer.echo(
        f"wrote {target}: {counts.num_rows} rows in {counts.seconds:.1f} s "
        f"({counts.num_rows / counts.seconds:.0f} rows/s), {counts.unknown_users} of unknown "
        f"users, {counts.unknown_items} of unknown items"
    )


@rank_app.command("export")
def export(
    run_dir: RunDir,
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")],
    model: ModelName = None,
    onnx: Annotated[
        bool, typer.Option("--onnx/--no-onnx", help="Write ONNX beside torch.export.")
    ] = True,
    users: Annotated[
        bool, typer.Option("--users", help="Write the users' ids too (may be personal data!).")
    ] = False,
) -> None:
    """Write a CTR model as graphs with lookup tables, for servers without dasrec."""
    from dasrec.cli.rank_model import open_model
    from dasrec.ranking.export.export import export_ranker

    opened = open_model(run_dir, model)
    manifest = export_ranker(opened.ranker, opened.corpus, out, onnx=onnx, users=users)
    found = manifest.metrics["largest_difference"]
    said = ", ".join(f"{name} {value:.1g}" for name, value in found.items())
    typer.echo(f"wrote {out}; largest difference of a logit from the model: {said}")
