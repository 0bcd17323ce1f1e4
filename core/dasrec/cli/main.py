"""`dasrec`: commands and how errors reach the user.

Heavy imports stand inside the commands: `dasrec --help` must not wait for torch.
"""

import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.logging import RichHandler

from dasrec.cli.rank import rank_app
from dasrec.cli.terminal import terminal

app = typer.Typer(
    help="DAS: generative recommendation on dual-aligned semantic IDs of users and items.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Get raw data: generate it, or download a public set.")
sids_app = typer.Typer(help="Look at semantic IDs.")
app.add_typer(data_app, name="data")
app.add_typer(sids_app, name="sids")
app.add_typer(rank_app, name="rank")

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="Run config (YAML).")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE ...]", help="e.g. generator.sft.lora.r=8")
]
Out = Annotated[Path, typer.Option("--out", help="Run directory.")]
Data = Annotated[Path | None, typer.Option("--data", help="Folder of the raw data.")]
Methods = Annotated[
    list[str] | None, typer.Option("--method", help="Tokenizer to treat (repeat for several).")
]
Generators = Annotated[
    list[str] | None,
    typer.Option(
        "--generator",
        help="Generator to treat, a key of the config's `generators` or main (repeat for several).",
    ),
]
FittedOn = Annotated[
    Path | None,
    typer.Option(
        "--fitted-on",
        help="Use the fitted encoders of this Embeddings artifact, for a later catalogue.",
    ),
]
Published = Annotated[
    Path | None,
    typer.Option(
        "--published",
        help="Run directory of an earlier catalogue whose SIDs are kept and extended, and whose "
        "models are used.",
    ),
]
Reuse = Annotated[
    list[Path] | None,
    typer.Option(
        "--reuse",
        help="Run directory whose artifacts are linked where config, inputs and seed are the same "
        "(repeat for several).",
    ),
]
RunDir = Annotated[Path, typer.Option("--run", help="Run directory.")]


@app.command()
def run(
    config: ConfigPath,
    overrides: Overrides = None,
    out: Out = Path("runs/default"),
    data: Data = None,
    method: Methods = None,
    generator: Generators = None,
    fitted_on: FittedOn = None,
    record: Annotated[
        Path | None,
        typer.Option("--record", help="Append the figures to TOPIC.jsonl in this folder."),
    ] = None,
    topic: Annotated[
        str, typer.Option(help="What the recorded figures are about; names their file.")
    ] = "ladder",
    variant: Annotated[
        str, typer.Option(help="What tells the recorded figures from others of the same methods.")
    ] = "",
    reuse: Reuse = None,
) -> None:
    """Run every stage, skipping what is up to date; end with metrics and recommendations."""
    from dasrec.cli.config import load_run_config
    from dasrec.cli.pipeline import Run
    from dasrec.cli.record import record_results
    from dasrec.cli.report.write import default_out, write_report
    from dasrec.cli.summary import show_summary
    from dasrec.eval.result_line import check_topic

    check_topic(topic)
    settings = load_run_config(config, overrides)
    plan = Run(
        settings,
        out,
        data,
        methods=method,
        variants=generator,
        fitted_on=fitted_on,
        reuse=reuse or (),
    )
    plan.execute()
    show_summary(plan, terminal())
    if record is not None:
        record_results(plan, record, config, overrides or [], topic, variant)
    # without what calls with other configs left behind
    page, *_ = write_report(
        [out], default_out([out]), methods=plan.methods, tokenizers=plan.tokenizers
    )
    typer.echo(f"Report: {page}")


@app.command()
def sweep(
    config: ConfigPath,
    overrides: Overrides = None,
    out: Out = Path("sweeps/default"),
    data: Data = None,
    reuse: Reuse = None,
) -> None:
    """Try the values of the config's section `sweep`, judged on validation; write best.yaml.

    The same command goes on with a sweep that was stopped.
    """
    from dasrec.cli.sweep import BEST, Sweep
    from dasrec.core.config import apply_overrides, read_yaml

    document = apply_overrides(read_yaml(config), overrides or [])
    plan = Sweep(document, str(config), out, data, reuse or ())
    terminal().print(plan.table(plan.run()))
    typer.echo(f"wrote {out / BEST}: dasrec run {out / BEST}")


@app.command()
def embed(
    config: ConfigPath,
    overrides: Overrides = None,
    out: Out = Path("runs/default"),
    data: Data = None,
    fitted_on: FittedOn = None,
) -> None:
    """Items and users to vectors (one stage; its inputs are read from --out)."""
    from dasrec.cli.config import load_run_config
    from dasrec.cli.pipeline import Run

    settings = load_run_config(config, overrides)
    Run(settings, out, data, {"embed"}, fitted_on=fitted_on).execute()


def _stage_command(stage: str, text: str) -> None:
    def command(
        config: ConfigPath,
        overrides: Overrides = None,
        out: Out = Path("runs/default"),
        data: Data = None,
        method: Methods = None,
        generator: Generators = None,
    ) -> None:
        from dasrec.cli.config import load_run_config
        from dasrec.cli.pipeline import Run

        settings = load_run_config(config, overrides)
        Run(settings, out, data, {stage}, method, generator).execute()

    app.command(stage, help=f"{text} (one stage; its inputs are read from --out).")(command)


def _extending_command(stage: str, text: str) -> None:
    """A stage that can go on from the SIDs and models of an earlier run."""

    def command(
        config: ConfigPath,
        overrides: Overrides = None,
        out: Out = Path("runs/default"),
        data: Data = None,
        method: Methods = None,
        generator: Generators = None,
        published: Published = None,
    ) -> None:
        from dasrec.cli.config import load_run_config
        from dasrec.cli.pipeline import Run

        settings = load_run_config(config, overrides)
        Run(settings, out, data, {stage}, method, generator, published=published).execute()

    app.command(stage, help=f"{text} (one stage; its inputs are read from --out).")(command)


for _name, _text in {
    "prepare": "Raw log to corpus: check, filter, number, split",
    "describe": "Let a language model write about items and users, for embed to read",
    "baselines": "Popularity, neighbours, linear and factor models, SASRec",
    "tokenize": "Train the tokenizers",
    "pretrain": "Add SID tokens to a decoder LM and train it in full",
    "sft": "Fine-tune the generator, by LoRA or in full",
    "align": "Align the generator with what users took, by DPO or GRPO",
    "fuse": "Merge lists of several methods",
    "evaluate": "Metrics of every method's lists",
}.items():
    _stage_command(_name, _text)
_extending_command("assign", "Give items and users their semantic IDs")
_extending_command("retrieve", "Generate lists under the trie")
_extending_command("head", "Score whole items by the generator's states, and lists by both")


@app.command()
def recommend(
    run_dir: RunDir = Path("runs/quickstart"),
    user: Annotated[str | None, typer.Option(help="A user_id of the log.")] = None,
    history: Annotated[
        str | None, typer.Option(help="item_ids, oldest first, separated by commas.")
    ] = None,
    method: Annotated[
        str, typer.Option(help="Tokenizer, or TOKENIZER.VARIANT, whose generator is used.")
    ] = "das",
    k: Annotated[int, typer.Option("-k", min=1, help="Items to show.")] = 10,
    num_beams: Annotated[int, typer.Option(min=1, help="Beams per level.")] = 50,
    exclude_seen: Annotated[
        bool, typer.Option(help="Leave out items of the history, inside the search.")
    ] = False,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN=VALUE",
            help="Only items with that value in the items table, or COLUMN~PART: with that text "
            "in it. Several columns: all of them; one column several times: any value.",
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="ITEM_ID", help="An item to leave out.")
    ] = None,
    only: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Only items of this file, one id a line."),
    ] = None,
    generator: Annotated[
        Path | None,
        typer.Option(help="Generator of an earlier run, for a catalogue whose SIDs extend its."),
    ] = None,
    intention: Annotated[
        str | None, typer.Option(help="What is wanted, in words; only real items are returned.")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say what each item has to do with the history.")
    ] = False,
) -> None:
    """Print the next items for a user of the log, or for a history given here."""
    from dasrec.cli.constraints import parse_where, read_ids
    from dasrec.cli.recommend import Recommender, recommendation_table

    if user is None and history is None:
        if intention is None:
            raise ValueError("recommend: give --user USER_ID, --history ID,ID,..., or both")
        history = ""
    ids = None if history is None else [part.strip() for part in history.split(",") if part.strip()]
    recommender = Recommender(run_dir, method, generator)
    found = recommender.recommend(
        user,
        ids,
        k=k,
        num_beams=num_beams,
        exclude_seen=exclude_seen,
        where=parse_where(where, recommender.corpus.items.schema) if where else None,
        exclude=exclude or (),
        only=None if only is None else read_ids(only),
        intention=intention,
        explain=explain,
    )
    console = terminal()
    for table in recommendation_table(found):
        console.print(table)


@app.command()
def export(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Run directory.")],
    method: Annotated[
        str, typer.Option(help="Tokenizer, or TOKENIZER.VARIANT, whose generator is exported.")
    ] = "das",
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write; RUN_DIR/exports/METHOD.")
    ] = None,
    generator: Annotated[
        Path | None,
        typer.Option(help="Generator of an earlier run, for a catalogue whose SIDs extend its."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model in its card.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Name of the data in the card.")] = None,
    license_name: Annotated[
        str | None, typer.Option("--license", help="License of the model, e.g. apache-2.0.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Type of the weights: float32, bfloat16 or float16.")
    ] = None,
    users: Annotated[
        bool, typer.Option("--users", help="Write the users' SIDs too (ids of users!).")
    ] = False,
    push: Annotated[
        str | None, typer.Option(metavar="REPO_ID", help="Upload to this model repository.")
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Make a repository that --push creates public.")
    ] = False,
) -> None:
    """Write a generator as one plain model with all that transformers, vLLM and SGLang need."""
    from dasrec.cli.export import export_run
    from dasrec.generative.export.push import push_export

    if push is None and public:
        raise ValueError("export: --public is about the repository of --push; add --push REPO_ID")
    written = export_run(
        run_dir,
        method,
        out,
        generator,
        name=name,
        dataset=dataset,
        license=license_name,
        dtype=dtype,
        users=users,
    )
    typer.echo(f"wrote {written}")
    if push is not None:
        typer.echo(f"uploaded: {push_export(written, push, private=not public)}")


@app.command("config")
def show_config(config: ConfigPath, overrides: Overrides = None) -> None:
    """Print every resolved value and exit."""
    import yaml

    from dasrec.cli.config import load_run_config

    settings = load_run_config(config, overrides)
    typer.echo(yaml.safe_dump(settings.as_json(), sort_keys=False))


@app.command()
def show(path: Annotated[Path, typer.Argument(help="An artifact directory.")]) -> None:
    """Print an artifact's manifest: what it is, what made it, and its figures."""
    import json

    from dasrec.core.artifacts import MANIFEST, Manifest, load_manifest, verify_files

    try:
        kind = json.loads((path / MANIFEST).read_text())["kind"]
    except (OSError, ValueError, KeyError):
        raise ValueError(f"{path}: not an artifact (no readable {MANIFEST})") from None
    manifest: Manifest = load_manifest(path, kind)
    verify_files(path, manifest)
    typer.echo(json.dumps({"fingerprint": manifest.fingerprint, **vars(manifest)}, indent=2))


@app.command()
def report(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[RUN ...]", help="Run directories, to be shown side by side."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Page (.html) about the runs, by default RUN/report.html for one; without runs "
            "the Markdown file, by default docs/results.md.",
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option("--method", help="Method of the runs to show (repeat for several)."),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(help="Method to compare with; by default the best on validation."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="valid or test; by default test.")] = None,
    results: Annotated[
        Path | None,
        typer.Option(help="Folder of the TOPIC.jsonl files; by default docs/results."),
    ] = None,
) -> None:
    """Write a page about runs; without runs, the results page from the recorded figures."""
    if runs:
        from dasrec.cli.report.write import default_out, write_report

        if results is not None:
            raise ValueError("report: --results is read without runs only; leave out one of them")
        page = default_out(runs) if out is None else out
        found = write_report(
            runs, page, split=_split(split or "test"), methods=method or None, baseline=baseline
        )
        typer.echo(f"wrote {', '.join(map(str, found))}")
        return
    if method or baseline or split:
        raise ValueError("report: --method, --baseline and --split are about runs; name the runs")

    from dasrec.eval.results import results_table

    text = results_table(results or Path("docs/results"))
    out = out or Path("docs/results.md")
    scratch = out.with_suffix(".tmp")
    scratch.write_text(text)
    scratch.replace(out)
    typer.echo(f"wrote {out}")


def _split(name: str) -> Literal["valid", "test"]:
    if name not in ("valid", "test"):
        raise ValueError(f"--split: expected valid or test, got '{name}'")
    return "valid" if name == "valid" else "test"


@app.command()
def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN ...", help="Run directories, one per seed.")
    ],
    baseline: Annotated[str, typer.Option(help="What the other methods are compared with.")],
    metric: Annotated[
        list[str] | None, typer.Option("--metric", help="e.g. recall@10 (repeat for several).")
    ] = None,
    split: Annotated[str, typer.Option(help="valid or test.")] = "test",
    allow: Annotated[
        list[str] | None,
        typer.Option(help="A field of protocol.json that may differ (repeat for several)."),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option("--record", help="Append to comparisons/TOPIC.jsonl in this folder."),
    ] = None,
    topic: Annotated[str, typer.Option(help="What the recorded figures are about.")] = "ladder",
) -> None:
    """Compare methods query by query: difference, interval over users, randomisation test."""
    from dasrec.cli.compare import comparison_table, record_comparisons
    from dasrec.eval.paired import compare_with, load_runs
    from dasrec.eval.result_line import check_topic

    check_topic(topic)
    chosen = _split(split)
    found = load_runs(runs)
    results = compare_with(baseline, found, metric or ["ndcg@10"], split=chosen, allow=allow or ())
    terminal().print(comparison_table(baseline, results))
    if record is not None:
        record_comparisons(record, topic, found, baseline, chosen, results, allow or ())
        typer.echo(f"recorded in {record}")


@app.command("check-leak")
def check_leak(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Run directory.")],
    data: Data = None,
) -> None:
    """Look for held-out events in what was learned: make it again without them and compare."""
    from dasrec.cli.leak import check_leak as check
    from dasrec.cli.leak import findings_table

    findings = check(run_dir, data)
    terminal().print(findings_table(findings))
    if any(finding.clean is False for finding in findings):
        typer.echo("error: held-out events were learned from, see LEAK above", err=True)
        raise typer.Exit(1)


@sids_app.command("report")
def sids_report(
    paths: Annotated[
        list[Path], typer.Argument(metavar="SIDS...", help="SemanticIds artifacts: RUN/sids/NAME.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Write a page (.html) with pictures, and its figures as JSON."),
    ] = None,
    corpus: Annotated[
        Path | None, typer.Option(help="Corpus, for --out; by default RUN/corpus.")
    ] = None,
    embeddings: Annotated[
        Path | None, typer.Option(help="Embeddings, for --out; by default RUN/embeddings.")
    ] = None,
) -> None:
    """Quality of semantic IDs, several side by side: collisions, usage, purity, alignment."""
    from dasrec.cli.sids import terminal_report, write_report

    if out is not None:
        beside = write_report(paths, out, corpus, embeddings)
        typer.echo(f"wrote {out} and {beside}")
    elif corpus is None and embeddings is None:
        typer.echo(terminal_report(paths))
    else:
        raise ValueError(
            "sids report: --corpus and --embeddings are read for a page only; add --out FILE.html"
        )


@sids_app.command("churn")
def sids_churn(
    old: Annotated[Path, typer.Argument(help="A SemanticIds artifact.")],
    new: Annotated[Path, typer.Argument(help="A later one.")],
) -> None:
    """What became of the SIDs of the same items and users: after training again, say."""
    from dasrec.core.semantic_ids import load_sids
    from dasrec.tokenizer import churn, render_report

    typer.echo(render_report(churn(load_sids(old), load_sids(new)), title=f"{old} -> {new}"))


@sids_app.command("decode")
def sids_decode(
    path: Annotated[Path, typer.Argument(help="A SemanticIds artifact: RUN/sids/NAME.")],
    sid: Annotated[str, typer.Argument(help="A SID or the start of one: 12-200-7, or 12.")],
    users: Annotated[bool, typer.Option("--users", help="SIDs of users, not items.")] = False,
) -> None:
    """The items (or users) that a SID or a prefix stands for."""
    from dasrec.cli.sids import decode

    for line in decode(path, sid, users):
        typer.echo(line)


@data_app.command("generate")
def data_generate(
    out: Annotated[Path, typer.Argument(help="Folder to create.")],
    overrides: Overrides = None,
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
) -> None:
    """Generate a synthetic catalogue and click log, with the truth behind the clicks."""
    from dasrec.core.config import apply_overrides, build_config
    from dasrec.core.synthetic import SyntheticConfig, generate

    values = apply_overrides({}, overrides or [])
    generate(build_config(SyntheticConfig, values, "data generate"), out, seed=seed)
    typer.echo(f"wrote {out}")


@data_app.command("download")
def data_download(
    name: Annotated[str, typer.Argument(help="Data set; an unknown name lists the known ones.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to put it in.")] = Path("data"),
) -> None:
    """Download a public data set from its own address (resumes, checks sums)."""
    from dasrec.core.download import download

    download(name, out / name)


def _set_up_logging() -> None:
    handler = RichHandler(console=terminal(), show_path=False, show_level=False, markup=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    first = os.environ.get("RANK", "0") == "0"  # of several processes one tells the story
    logging.getLogger("dasrec").setLevel(logging.INFO if first else logging.WARNING)


def main(arguments: list[str] | None = None) -> None:
    """Run a command; a user's error is one clear message and exit code 2."""
    _set_up_logging()
    _quiet_libraries()
    command: Any = typer.main.get_command(app)
    try:
        command.main(args=arguments, prog_name="dasrec", standalone_mode=True)
    except (ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except SystemExit as end:
        if end.code == 0:
            _leave_launcher()
        raise


def _leave_launcher() -> None:
    """If a launcher started this process and it has trained with others."""
    distributed = sys.modules.get("torch.distributed")  # do not wait for torch to find out
    if distributed is not None and distributed.is_initialized():
        from dasrec.core.processes import leave

        leave()


def _quiet_libraries() -> None:
    """Our log shows the progress; the libraries' own bars would interleave with it."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", message=".*is deprecated and will be removed in v6")


if __name__ == "__main__":
    main()
