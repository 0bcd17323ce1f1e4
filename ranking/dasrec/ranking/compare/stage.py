"""Stage: Corpus and SemanticIds of several tokenizers -> which of them help the CTR model."""

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dasrec.core.artifacts import code_version
from dasrec.core.corpus import Corpus
from dasrec.core.semantic_ids import SemanticIds
from dasrec.ranking.compare.arms import make_arm
from dasrec.ranking.compare.config import Arm
from dasrec.ranking.compare.figures import Results, all_figures, load_results
from dasrec.ranking.compare.paired import MIN_USERS, PRIMARY, compare_arms

log = logging.getLogger(__name__)


def run_arms(
    planned: Mapping[str, Arm],
    seeds: Collection[int],
    corpus: Corpus,
    sids: Mapping[str, SemanticIds],
    folder: Path,
) -> None:
    """Train and score every arm with every seed; what is there already is kept.

    Several processes may do so side by side on one folder: each takes what no other one is at.
    An interrupted training goes on from its last epoch.

    Args:
        planned: from `plan_arms`; or some of them.
        seeds: all or some of the config's.
        corpus: what is trained on.
        sids: by tokenizer.
        folder: RUN/rank_compare.
    """
    jobs = [(arm, seed) for seed in seeds for arm in planned.values()]
    waiting, patience = jobs, 0.0
    while waiting:
        busy = []
        for arm, seed in waiting:
            lock = FileLock(_folder(folder / arm.name) / f".{seed}.lock", timeout=patience)
            try:
                with lock:
                    number = jobs.index((arm, seed)) + 1
                    log.info("compare   %s/%d (%d of %d)", arm.name, seed, number, len(jobs))
                    make_arm(arm, seed, corpus, sids, folder)
            except Timeout:
                busy.append((arm, seed))
        # Nothing is left but what others are at: wait for them, for they may stop halfway.
        patience = -1.0 if len(busy) == len(waiting) else 0.0
        waiting = busy


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def compare_report(
    planned: Mapping[str, Arm],
    seeds: tuple[int, ...],
    corpus: Corpus,
    sids: Mapping[str, str],
    folder: Path,
    num_samples: int,
) -> dict[str, Any]:
    """Figures of all finished arms and their comparisons, as JSON values.

    What was trained with other settings or from other inputs than those given is not finished.

    Args:
        planned: from `plan_arms`.
        seeds: of the config.
        corpus: what is trained on.
        sids: fingerprints of the semantic IDs by tokenizer; arms of one that is missing are not
            finished.
        folder: RUN/rank_compare.
        num_samples: resamples.

    Raises:
        ValueError: no arm is finished, or arms with other test rows.
    """
    results = load_results(planned, seeds, corpus, sids, folder)
    if not results.arms:
        raise ValueError(f"rank compare: {folder} holds no finished arm; train some first")
    figures = all_figures(results)
    compared = compare_arms(planned, results, corpus.num_users, num_samples)
    return {
        "code": code_version(),
        "corpus": corpus.manifest.fingerprint,
        "seeds": list(seeds),
        "num_samples": num_samples,
        "min_users": MIN_USERS,
        "primary": [f"{metric}[{part}]" for metric, part in PRIMARY],
        "arms": {
            name: _arm_facts(planned[name], results) | {"slices": figures[name]}
            for name in results.arms
        },
        "comparisons": [found._asdict() for found in compared],
    }


def _arm_facts(arm: Arm, results: Results) -> dict[str, Any]:
    seeds = results.arms[arm.name]
    models = [result.model for result in seeds.values()]
    return {
        "tokenizer": arm.tokenizer,
        "shuffle_sids": arm.shuffle_sids,
        "train": arm.train.as_json(),
        "seeds": list(seeds),
        "parameters": models[0].metrics["parameters"],
        "train_seconds": [model.metrics["train_seconds"] for model in models],
        "valid": [model.metrics["valid"] for model in models],
        "inputs": [model.inputs for model in models],
    }
