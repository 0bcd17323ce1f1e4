"""Steps of `dasrec run` that make the baselines' lists and merge lists."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from dasrec.baselines import FusionConfig
from dasrec.cli.baselines_config import BaselinesConfig
from dasrec.cli.generator_steps import Step
from dasrec.core.artifacts import load_manifest
from dasrec.core.corpus import Corpus


def run_baselines(
    section: BaselinesConfig, corpus: Corpus, out: Path, step: Step, seed: int
) -> None:
    """Make the lists of every baseline that needs the corpus alone.

    Args:
        section: the baselines to run.
        corpus: the corpus.
        out: the run directory.
        step: runs a stage unless its artifact is up to date.
        seed: of every stage.
    """
    import dasrec.baselines as methods

    recommend: dict[str, Callable[..., object]] = {
        "popularity": methods.recommend_popularity,
        "popularity_recent": methods.recommend_recent_popularity,
        "cooccurrence": methods.recommend_cooccurrence,
        "item_knn": methods.recommend_item_knn,
        "ease": methods.recommend_ease,
        "ials": methods.recommend_ials,
    }
    for name, function in recommend.items():
        config = getattr(section, name)
        if config is not None:
            lists = out / "recommendations" / name
            step(
                "baselines", "recommendations", lists, config.as_json(),
                {"corpus": corpus.manifest},
                partial(function, config, corpus, lists, seed=seed, replace=True),
            )  # fmt: skip
    if section.sasrec is not None:
        _sasrec(section, corpus, out, step, seed)


def _sasrec(section: BaselinesConfig, corpus: Corpus, out: Path, step: Step, seed: int) -> None:
    from dasrec.baselines import recommend_sasrec, train_sasrec

    config, lists = section.sasrec, section.sasrec_lists
    assert config is not None
    model, recommendations = out / "models" / "sasrec", out / "recommendations" / "sasrec"
    inputs = {"corpus": corpus.manifest}
    train = partial(train_sasrec, config, corpus, model, seed=seed, replace=True)
    step("baselines", "sasrec_model", model, config.as_json(), inputs, train)
    inputs["model"] = load_manifest(model, "sasrec_model")
    recommend = partial(
        recommend_sasrec, lists, corpus, model, recommendations, seed=seed, replace=True
    )
    step("baselines", "recommendations", recommendations, lists.as_json(), inputs, recommend)


def run_two_tower(
    section: BaselinesConfig, corpus: Corpus, tokenizer: Path, out: Path, step: Step, seed: int
) -> None:
    """Make the lists of dense retrieval.

    Args:
        section: its `two_tower` is there.
        corpus: the corpus.
        tokenizer: the tokenizer whose vectors are used.
        out: the run directory.
        step: runs a stage unless its artifact is up to date.
        seed: of every stage.
    """
    from dasrec.baselines import recommend_two_tower
    from dasrec.tokenizer.collaborative import collaborative_vectors

    config = section.two_tower
    assert config is not None
    lists = out / "recommendations" / "two_tower"

    def work() -> None:
        users_UD, items_ID, manifest = collaborative_vectors(tokenizer, corpus, config.vectors)
        recommend_two_tower(
            config, corpus, users_UD, items_ID, manifest, lists, seed=seed, replace=True
        )

    inputs = {"corpus": corpus.manifest}
    inputs["tokenizer"] = load_manifest(tokenizer, "tokenizer", inputs)
    step("retrieve", "recommendations", lists, config.as_json(), inputs, work)


def run_fusions(
    fusions: Mapping[str, FusionConfig], corpus: Corpus, out: Path, step: Step, seed: int
) -> None:
    """Merge lists that are there.

    Args:
        fusions: by the name of the merged lists.
        corpus: the corpus.
        out: the run directory.
        step: runs a stage unless its artifact is up to date.
        seed: of every stage.

    Raises:
        FileNotFoundError: a fusion names a method without lists.
    """
    from dasrec.baselines import fuse

    for name, config in fusions.items():
        lists = {method: out / "recommendations" / method for method in config.methods}
        made_from = {"corpus": corpus.manifest}
        inputs = made_from | {
            f"lists/{method}": load_manifest(path, "recommendations", made_from)
            for method, path in lists.items()
        }
        merged = out / "recommendations" / name
        run = partial(fuse, config, corpus, lists, merged, seed=seed, replace=True)
        step("fuse", "recommendations", merged, config.as_json(), inputs, run)
