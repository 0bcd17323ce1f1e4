"""`dasrec sids report`: the figures of one or several sets of SIDs, printed or as a page."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dasrec.core.artifacts import MANIFEST, load_manifest
from dasrec.core.corpus import Corpus, load_corpus
from dasrec.core.embeddings import Embeddings, load_embeddings
from dasrec.core.semantic_ids import SemanticIds, load_sids


def terminal_report(paths: Sequence[Path]) -> str:
    """The recorded figures as Markdown, a column per set of SIDs.

    Raises:
        ValueError: one path twice, or something else than SIDs at a path.
    """
    from dasrec.tokenizer.report import compare_reports, render_report

    found = {
        label: _numbers(load_manifest(path, "semantic_ids").metrics)
        for label, path in zip(labels(paths), paths, strict=True)
    }
    if len(found) == 1:
        return render_report(next(iter(found.values())), title=str(paths[0]))
    return compare_reports(found)


def write_report(
    paths: Sequence[Path], out: Path, corpus_dir: Path | None, embeddings_dir: Path | None
) -> Path:
    """Write the page and, beside it, its figures as JSON.

    Figures recorded with the SIDs are shown as they are; those that are not there are computed.

    Args:
        paths: SemanticIds artifacts made from one corpus.
        out: the page, `.html`; an earlier one is replaced.
        corpus_dir: the corpus; None: `corpus` of the first path's run directory.
        embeddings_dir: the embeddings of all paths; None: `embeddings` of each run directory.

    Returns:
        Path of the JSON file.

    Raises:
        ValueError: one path twice, a wrong name of the page, artifacts that are not there or do
            not belong together. Nothing is written then.
    """
    if out.suffix != ".html":
        raise ValueError(f"sids report: --out must be a file that ends in .html, got {out}")
    names = labels(paths)
    corpus = load_corpus(_input(paths[0], "corpus", corpus_dir))
    embedded = [_embeddings(path, corpus, embeddings_dir) for path in paths]

    from dasrec.tokenizer.report.page import Entry, render_page, report_json

    entries = []
    for name, path, embeddings in zip(names, paths, embedded, strict=True):
        sids = load_sids(path)
        entries.append(Entry(name, sids, _figures(sids, corpus, embeddings)))
    beside = out.with_suffix(".json")
    text = json.dumps(report_json(entries, corpus), indent=2, allow_nan=False) + "\n"
    page = render_page(entries, corpus)
    out.parent.mkdir(parents=True, exist_ok=True)
    for path, content in ((beside, text), (out, page)):
        scratch = path.with_name(f".{path.name}.tmp")
        scratch.write_text(content, "utf-8")
        scratch.replace(path)
    return beside


def labels(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart.

    Raises:
        ValueError: one path twice.
    """
    parts = [path.resolve().parts for path in paths]
    for index, path in enumerate(paths):
        if parts[index] in parts[:index]:
            raise ValueError(f"{path} is given twice")
    length = 1
    while len({end[-length:] for end in parts}) < len(parts):
        length += 1
    return ["/".join(end[-length:]) for end in parts]


def _embeddings(path: Path, corpus: Corpus, given: Path | None) -> Embeddings:
    """The embeddings that the SIDs at `path` were made from."""
    load_manifest(path, "semantic_ids", {"corpus": corpus.manifest})
    embeddings = load_embeddings(_input(path, "embeddings", given), corpus)
    load_manifest(path, "semantic_ids", {"embeddings": embeddings.manifest})
    return embeddings


def _input(path: Path, name: str, given: Path | None) -> Path:
    """Where an input of the SIDs at RUN/sids/NAME is: as given, else RUN/`name`."""
    load_manifest(path, "semantic_ids")
    found = given or path.resolve().parents[1] / name
    if not (found / MANIFEST).is_file():
        fix = "is it the right folder?" if given else f"name the folder with --{name}"
        raise ValueError(f"sids report: {path}: no {name} at {found}; {fix}")
    return found


def _figures(sids: SemanticIds, corpus: Corpus, embeddings: Embeddings) -> dict[str, float]:
    """The recorded figures, and computed ones where the SIDs were made without them."""
    from dasrec.tokenizer.report import sid_report

    computed = sid_report(sids.items, sids.users, corpus, embeddings)
    if sids.manifest.config.get("collisions") == "reassign_last":
        # The codes before that policy are gone.
        computed = {name: value for name, value in computed.items() if "_before" not in name}
    return computed | _numbers(sids.manifest.metrics)


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if isinstance(value, int | float)}


def decode(path: Path, text: str, users: bool) -> list[str]:
    """A line "SID, external id, title" for every row under a prefix like "12-200".

    Titles are shown where the run directory has the corpus.

    Raises:
        ValueError: not codes, more codes than SIDs have, no user SIDs, or none under the prefix.
    """
    from dasrec.tokenizer.lookup import SidLookup

    sids = load_sids(path)
    table = sids.users if users else sids.items
    if table is None:
        raise ValueError(f"{path}: has no user SIDs")
    codes = text.split("-")
    if not all(code.isdecimal() for code in codes):
        raise ValueError(f"sids decode: expected codes like 12-200-7, got '{text}'")
    rows = SidLookup(table.codes).rows([int(code) for code in codes])
    if not len(rows):
        raise ValueError(f"sids decode: no SID of {path} starts with {text}")
    titles = _titles(path, sids, users)
    ids = [str(row) for row in rows] if table.ids is None else table.ids.gather(rows).to_list()
    return [
        "\t".join(["-".join(map(str, table.codes[row])), name, *titles.get(int(row), [])])
        for row, name in zip(rows, ids, strict=True)
    ]


def _titles(path: Path, sids: SemanticIds, users: bool) -> dict[int, list[str]]:
    corpus_dir = path.resolve().parent.parent / "corpus"
    if users or not (corpus_dir / MANIFEST).exists():
        return {}
    corpus = load_corpus(corpus_dir)
    fits = corpus.manifest.fingerprint == sids.manifest.inputs["corpus"]
    if not fits or "title" not in corpus.items.columns:
        return {}
    return {row: [title] for row, title in enumerate(corpus.items["title"]) if title is not None}
