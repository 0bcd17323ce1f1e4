"""What a sweep judges: the part of a run that leads to one artifact, and the artifact's figure."""

import json
from pathlib import Path
from typing import Any

from dasrec.cli.baselines_config import BASELINES
from dasrec.cli.config import RunConfig
from dasrec.cli.generator_config import MAIN, chain_of
from dasrec.cli.generator_steps import HEAD, RANKED, base_method, split_name
from dasrec.cli.pipeline import STAGES
from dasrec.core.artifacts import MANIFEST
from dasrec.core.embed import EmbedConfig
from dasrec.eval.report import load_report, split_key

LAST_STAGE = {
    "tokenizers": "tokenize",
    "sids": "assign",
    "models": "baselines",
    "bases": "pretrain",
    "generators": "sft",
    "aligned": "align",
    "item_heads": "head",
    "rankers": "rank",
    "reports": "evaluate",
}
"""Folder of the judged artifact: the stage that ends with it."""


class Needs:
    """The sections of a run config that one artifact is made from."""

    def __init__(self, config: RunConfig, of: str) -> None:
        """Find them.

        Args:
            config: the whole config.
            of: FOLDER/NAME of an artifact in the run directory.

        Raises:
            ValueError: a folder or name that the config does not lead to.
        """
        self.config = config
        self.baselines: set[str] = set()
        self.tokenizers: set[str] = set()
        self.generators: set[str] = set()  # whose lists are needed
        self.fusions: set[str] = set()
        self.head = of.startswith("item_heads/")
        self.ranking = False
        folder, _, name = of.partition("/")
        if folder not in LAST_STAGE or not name:
            known = ", ".join(f"{folder}/NAME" for folder in LAST_STAGE)
            raise ValueError(f"sweep.of: expected one of {known}, got '{of}'")
        self.stages = set(STAGES[: STAGES.index(LAST_STAGE[folder]) + 1])
        add = {"reports": self._lists, "models": self._baseline, "rankers": self._ranker}
        add |= dict.fromkeys(("tokenizers", "sids"), self._tokenizer)
        add.get(folder, self._generator)(name)
        if self.ranking:
            self.stages.add("rank")
        if not self.head:
            self.stages.discard("head")
        if not self.tokenizers:
            self.stages -= {"embed", "tokenize", "assign"}
        if not self.tokenizers or config.describe is None:
            self.stages.remove("describe")

    def trimmed(self) -> RunConfig:
        """The config without all else; generators make lists of the validation split alone."""
        config = self.config
        chains = {name for v in self.generators for name in chain_of(v, config.all_generators)}
        kept = {
            name: each.model_copy(
                update={"retrieve": each.retrieve.model_copy(update={"splits": ("valid",)})}
            )
            for name, each in config.all_generators.items()
            if name in chains
        }
        others = {name: None for name in BASELINES if name not in self.baselines}
        texts = {} if self.tokenizers else {"describe": None, "embed": EmbedConfig()}
        return config.model_copy(
            update=texts
            | {
                "baselines": config.baselines.model_copy(update=others),
                "tokenizers": {k: v for k, v in config.tokenizers.items() if k in self.tokenizers},
                "generator": kept.pop(MAIN, None),
                "generators": kept,
                "ranking": config.ranking if self.ranking else None,
                "fusions": {k: v for k, v in config.fusions.items() if k in self.fusions},
                "sweep": None,
            }
        )

    def _lists(self, name: str) -> None:
        if name in BASELINES:
            self._baseline(name)
        elif name in self.config.fusions:
            self.fusions.add(name)
            for method in self.config.fusions[name].methods:
                self._lists(method)
        else:
            self._generator(base_method(name))
            self.head |= name.endswith(HEAD)
            if name.endswith(RANKED):
                self._ranker(base_method(name))

    def _baseline(self, name: str) -> None:
        if name not in BASELINES or getattr(self.config.baselines, name) is None:
            raise ValueError(f"sweep.of: the config has no baseline '{name}'")
        self.baselines.add(name)
        if name == "two_tower" and self.config.baselines.two_tower is not None:
            self._tokenizer(self.config.baselines.two_tower.tokenizer)

    def _tokenizer(self, name: str) -> None:
        if name not in self.config.tokenizers:
            known = ", ".join(self.config.tokenizers) or "none"
            raise ValueError(f"sweep.of: the config has no tokenizer '{name}'; known: {known}")
        self.tokenizers.add(name)

    def _generator(self, name: str) -> None:
        tokenizer, variant = split_name(name)
        generators = self.config.all_generators
        if tokenizer not in self.config.tokenizers or (variant or MAIN) not in generators:
            known = ", ".join([*self.config.list_methods, *self.config.fusions]) or "none"
            raise ValueError(f"sweep.of: the config makes no '{name}'; known: {known}")
        self.tokenizers.add(tokenizer)
        self.generators.add(variant or MAIN)
        chain = chain_of(variant or MAIN, generators)
        if any(generators[each].asks_ranker for each in chain):
            self._ranker(tokenizer)

    def _ranker(self, name: str) -> None:
        if self.config.ranking is None or name not in (self.config.ranking.tokenizer, "id_only"):
            raise ValueError(f"sweep.of: the section 'ranking' trains no ranker '{name}'")
        self.ranking = True
        self.tokenizers.add(self.config.ranking.tokenizer)


def validation_figure(run: Path, of: str, metric: str) -> float:
    """The figure of an artifact on the validation split; test figures are not looked at.

    Args:
        run: the run directory.
        of: FOLDER/NAME of the artifact.
        metric: a metric of reports, slices as in `ndcg@10[tie_free]`; a figure of the manifest
            elsewhere (under `valid`, where the manifest has that).

    Raises:
        ValueError: no such figure; the message names those there are.
    """
    path = run / of
    if of.startswith("reports/"):
        name, part = split_key(metric)
        slices = load_report(path).splits.get("valid", {})
        figures: dict[str, Any] = slices.get(part, {})
        known = [key if s == "all" else f"{key}[{s}]" for s in slices for key in slices[s]]
    else:
        name, figures = metric, _manifest_figures(path)
        known = [key for key, value in figures.items() if isinstance(value, int | float)]
    value = figures.get(name)
    if not isinstance(value, int | float):
        raise ValueError(
            f"sweep.metric: {of} has no figure '{metric}' of the validation split; known: "
            f"{', '.join(known) or 'none'}"
        )
    return float(value)


def _manifest_figures(path: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((path / MANIFEST).read_text())["metrics"]
    valid = metrics.get("valid")
    return valid if isinstance(valid, dict) else metrics
