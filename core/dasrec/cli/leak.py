"""`dasrec check-leak`: what of a run can be made again cheaply, made again without held-out events.

See `dasrec.eval.leakage` for the idea.
"""

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from rich.table import Table

from dasrec.cli.baselines_config import BaselinesConfig
from dasrec.core.artifacts import Manifest, load_manifest
from dasrec.core.config import build_config
from dasrec.core.corpus import Corpus, load_corpus
from dasrec.core.descriptions import load_descriptions
from dasrec.core.embed import EmbedConfig, embed
from dasrec.core.embeddings import load_embeddings
from dasrec.core.recommendations import load_recommendations
from dasrec.core.texts import user_texts
from dasrec.eval.leakage import (
    Finding,
    blind_targets,
    blind_training,
    check_lists,
    check_order,
    check_statistics,
    check_time,
    check_vectors,
)
from dasrec.eval.tables import rich_table

CHEAP_ENCODERS = {"lsa", "file", "history_mean", "cooccurrence"}
CHEAP_METHODS = ("popularity", "popularity_recent", "cooccurrence", "item_knn")


def check_leak(run: Path, data_dir: Path | None = None) -> list[Finding]:
    """Check the split, the training statistics, the vectors and the cheap baselines of a run.

    Args:
        run: a run directory.
        data_dir: folder of the raw data; for vectors that are read from it.

    Raises:
        FileNotFoundError: a run without corpus.
    """
    corpus = load_corpus(run / "corpus")
    embeddings = run / "embeddings"
    config = _embed_config(embeddings) if embeddings.exists() else EmbedConfig()
    texts = partial(
        user_texts,
        columns=config.users.columns,
        max_history=config.users.max_history,
        labels=config.users.encoder != "lsa",
    )
    findings = [check_order(corpus), check_time(corpus), *check_statistics(corpus, texts)]
    with tempfile.TemporaryDirectory() as scratch:
        if embeddings.exists():
            findings += _vectors(run, config, corpus, data_dir, Path(scratch))
        for folder in sorted((run / "recommendations").glob("[!.]*")):
            findings += _lists(folder, corpus, Path(scratch))
    return findings


def findings_table(findings: list[Finding]) -> Table:
    """The findings for the terminal."""
    words = {True: "clean", False: "LEAK", None: "not checked"}
    rows = [[finding.what, words[finding.clean], finding.detail] for finding in findings]
    return rich_table(["what", "verdict", "detail"], rows)


def _embed_config(path: Path) -> EmbedConfig:
    return build_config(EmbedConfig, load_manifest(path, "embeddings").config, f"{path}: config")


def _vectors(
    run: Path, config: EmbedConfig, corpus: Corpus, data_dir: Path | None, scratch: Path
) -> Iterator[Finding]:
    stored = load_embeddings(run / "embeddings", corpus)
    sections = {*(one.encoder for one in config.item_encoders.values()), config.users.encoder}
    reason = None
    if slow := sections - CHEAP_ENCODERS:
        reason = f"encoder {', '.join(sorted(slow))} takes too long"
    elif "fitted_on" in stored.manifest.inputs:
        reason = "made with the encoders of an earlier run"
    elif config.reads_files and data_dir is None:
        reason = "reads files of the data folder; give it with --data"
    if reason is not None:
        yield Finding("embeddings", None, reason)
        return
    descriptions = run / "descriptions"
    again = embed(
        config,
        blind_training(corpus).corpus,
        scratch / "embeddings",
        data_dir=data_dir,
        descriptions=load_descriptions(descriptions, corpus) if descriptions.exists() else None,
        seed=stored.manifest.seed,
    )
    for name, vectors in stored.modalities.items():
        yield check_vectors(f"embeddings: items, {name}", vectors, again.modalities[name])
    yield check_vectors("embeddings: users", stored.users, again.users)


def _lists(folder: Path, corpus: Corpus, scratch: Path) -> Iterator[Finding]:
    what = f"recommendations/{folder.name}"
    if folder.name not in CHEAP_METHODS:
        yield Finding(what, None, "takes a trained model; its training statistics are above")
        return
    stored = load_recommendations(folder, corpus)
    assert stored.manifest is not None
    for blinding, kind in ((blind_training, "learned"), (blind_targets, "own target")):
        blinded = blinding(corpus)
        out = scratch / f"{folder.name}.{blinding.__name__}"
        _recommend(folder, stored.manifest, blinded.corpus, out)
        again = load_recommendations(out, corpus)
        yield check_lists(f"{what}: {kind}", stored, again, blinded.queries)


def _recommend(folder: Path, stored: Manifest, corpus: Corpus, out: Path) -> None:
    """Make the lists of a method again."""
    import dasrec.baselines as methods

    recommend: dict[str, Callable[..., object]] = {
        "popularity": methods.recommend_popularity,
        "popularity_recent": methods.recommend_recent_popularity,
        "cooccurrence": methods.recommend_cooccurrence,
        "item_knn": methods.recommend_item_knn,
    }
    section = build_config(BaselinesConfig, {folder.name: stored.config}, f"{folder}: config")
    config = getattr(section, folder.name)
    recommend[folder.name](config, corpus, out, seed=stored.seed)
