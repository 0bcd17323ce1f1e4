"""Which CTR model of a run directory a command uses, and the semantic IDs that belong to it."""

from pathlib import Path
from typing import NamedTuple

from dasrec.cli.rank_compare import FOLDER
from dasrec.core.artifacts import MANIFEST, Manifest, load_manifest
from dasrec.core.corpus import Corpus, load_corpus
from dasrec.core.semantic_ids import SemanticIds, load_sids
from dasrec.ranking import Ranker, load_ranker

PLAIN = "id_only"


class OpenedModel(NamedTuple):
    """A CTR model with what it was trained on."""

    path: Path
    ranker: Ranker
    corpus: Corpus
    sids: SemanticIds | None


def open_model(run_dir: Path, name: str | None) -> OpenedModel:
    """Open a CTR model of a run.

    Args:
        run_dir: the run directory.
        name: a folder of RUN/rankers, or ARM/SEED of RUN/rank_compare; None = the only folder of
            RUN/rankers beside the ID-only twin.

    Raises:
        FileNotFoundError: no such model, or no semantic IDs that it was trained with.
        ValueError: no name where there are several, or parts that do not belong together.
    """
    path = model_path(run_dir, name)
    corpus = load_corpus(run_dir / "corpus")
    manifest = load_manifest(path, "ranking_model")
    sids = _sids_of(manifest, path, run_dir, corpus)
    return OpenedModel(path, load_ranker(path, corpus, sids), corpus, sids)


def model_path(run_dir: Path, name: str | None) -> Path:
    """The folder of a model, see `open_model`."""
    trained = {path.parent.name: path.parent for path in run_dir.glob(f"rankers/*/{MANIFEST}")}
    arms = {
        f"{path.parts[-4]}/{path.parts[-3]}": path.parent
        for path in run_dir.glob(f"{FOLDER}/*/*/model/{MANIFEST}")
    }
    known = ", ".join(sorted(trained) + sorted(arms)) or "none; run `dasrec rank train` first"
    if name is not None:
        if name not in trained | arms:
            raise FileNotFoundError(f"--model {name}: not in {run_dir}; known: {known}")
        return (trained | arms)[name]
    chosen = [model for model in trained if model != PLAIN] or list(trained)
    if len(chosen) != 1:
        raise ValueError(f"{run_dir}: name the CTR model with --model; known: {known}")
    return trained[chosen[0]]


def _sids_of(manifest: Manifest, path: Path, run_dir: Path, corpus: Corpus) -> SemanticIds | None:
    wanted = manifest.inputs.get("semantic_ids")
    if wanted is None:
        return None
    places = [*sorted(run_dir.glob(f"sids/*/{MANIFEST}")), path.parent / "sids" / MANIFEST]
    for place in places:
        if place.exists():
            sids = load_sids(place.parent, corpus.manifest)
            if sids.extends(wanted):
                return sids
    raise FileNotFoundError(
        f"{run_dir}/sids: none are the semantic IDs {wanted} that {path} was trained with; assign "
        "them again or train again"
    )
