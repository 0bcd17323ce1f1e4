"""The run config: one YAML file, one section per stage."""

import re
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from dasrec.baselines import FusionConfig
from dasrec.cli.baselines_config import BASELINES, BaselinesConfig
from dasrec.cli.generator_config import MAIN, GeneratorConfig, check_chain
from dasrec.cli.generator_steps import RANKED, list_names
from dasrec.cli.sweep_config import SweepConfig
from dasrec.core.config import StageConfig, apply_overrides, build_config, read_yaml
from dasrec.core.descriptions_stage import DescribeConfig
from dasrec.core.embed import EmbedConfig
from dasrec.core.prepare import PrepareConfig
from dasrec.core.synthetic import SyntheticConfig
from dasrec.eval.report import EvalConfig
from dasrec.ranking import RankingConfig, RerankConfig
from dasrec.ranking.compare import CompareConfig
from dasrec.tokenizer import AssignConfig, DasConfig, TokenizerConfig
from dasrec.tokenizer.methods.letter import LetterConfig


class RankConfig(StageConfig):
    """The CTR model on the SIDs of one tokenizer."""

    tokenizer: str
    """Name of the tokenizer (a key of `tokenizers`) whose SIDs and candidates are used."""

    train: RankingConfig = RankingConfig()
    """Training of the CTR model; an ID-only twin is trained beside it for comparison."""

    rerank: RerankConfig = RerankConfig()
    """Re-scoring of the generated candidates."""

    compare: CompareConfig = CompareConfig()
    """Arms and seeds of `dasrec rank compare`."""


class RunConfig(StageConfig):
    """A whole run: from a raw log to recommendations and a metrics table."""

    name: str
    """Name of the data set in results."""

    seed: int = 0
    """Seed of every stage."""

    synthetic: SyntheticConfig | None = None
    """Generate the raw data instead of reading it from --data."""

    prepare: PrepareConfig
    """Raw log to corpus."""

    describe: DescribeConfig | None = None
    """Descriptions that a language model writes, for `embed`; without it none are made."""

    embed: EmbedConfig = EmbedConfig()
    """Texts to vectors."""

    baselines: BaselinesConfig = BaselinesConfig()
    """What the generator is compared with."""

    tokenizers: dict[str, TokenizerConfig] = Field(default_factory=dict)
    """Tokenizers to train, by method name ("das", "tiger", ...)."""

    assign: AssignConfig = AssignConfig()
    """How SIDs are given out, for all tokenizers."""

    generator: GeneratorConfig | None = None
    """The generator; without one the run stops at the semantic IDs."""

    generators: dict[str, GeneratorConfig] = Field(default_factory=dict)
    """More of them by variant name, trained on the SIDs of each tokenizer for comparison. Their
    artifacts and lists are named `TOKENIZER.VARIANT`."""

    ranking: RankConfig | None = None
    """The CTR model; without it no ranking is done."""

    fusions: dict[str, FusionConfig] = Field(default_factory=dict)
    """Lists merged from those of other methods, by the name of the merged ones."""

    eval: EvalConfig = EvalConfig()
    """Metrics."""

    sweep: SweepConfig | None = None
    """What `dasrec sweep` tries; no other command reads it."""

    @model_validator(mode="after")
    def _consistent(self) -> "RunConfig":
        for section in ("tokenizers", "generators", "fusions"):
            for name in getattr(self, section):
                if not re.fullmatch(r"[a-z0-9_]+", name):
                    raise ValueError(f"{section}: '{name}': use lower-case letters, digits and _")
        if MAIN in self.generators:
            raise ValueError(f"generators: '{MAIN}' is the name of the section 'generator'")
        check_chain(self.generator, self.generators)
        for name in self.tokenizers:
            if name in BASELINES:
                raise ValueError(f"tokenizers: '{name}' is the name of a baseline; choose another")
        if self.embed.reads_descriptions and self.describe is None:
            raise ValueError(
                "embed: source 'descriptions' needs the section 'describe', which names the "
                "language model; add it, or set source to 'columns'"
            )
        if self.ranking is not None and self.ranking.tokenizer not in self.tokenizers:
            known = ", ".join(self.tokenizers) or "none"
            raise ValueError(
                f"ranking.tokenizer: '{self.ranking.tokenizer}' is not in tokenizers ({known})"
            )
        self._check_modalities()
        self._check_rewards()
        self._check_two_tower()
        self._check_fusions()
        widest = max(self.eval.ks)
        for name, generator in self.all_generators.items():
            section = "generator" if name == MAIN else f"generators.{name}"
            self._check_tokenizers(section, generator)
            widths = {"retrieve.num_items": generator.retrieve.num_items}
            if generator.item_head is not None:
                widths["item_head.rank.width"] = generator.item_head.rank.width
            for key, width in widths.items():
                if width < widest:
                    raise ValueError(
                        f"{section}.{key} must be at least max(eval.ks) = {widest}, got {width}"
                    )
        return self

    def _check_tokenizers(self, section: str, generator: GeneratorConfig) -> None:
        where, known = "tokenizers", tuple(self.tokenizers)
        asked = {f"{section}.tokenizers": generator.tokenizers}
        if generator.item_head is not None:
            asked[f"{section}.item_head.tokenizers"] = generator.item_head.tokenizers
        for key, names in asked.items():
            for name in names or ():
                if name not in known:
                    raise ValueError(
                        f"{key}: '{name}' is not in {where} ({', '.join(known) or 'none'})"
                    )
            if names is not None:  # a head is of a generator that is there
                where, known = key, names

    def _check_modalities(self) -> None:
        known = (self.embed.modality, *self.embed.more)
        for name, tokenizer in self.tokenizers.items():
            asked = [("modalities", each) for each in tokenizer.modalities or ()]
            if isinstance(tokenizer, LetterConfig):
                asked.append(("cf", tokenizer.cf))
            for key, modality in asked:
                if modality not in known:
                    raise ValueError(
                        f"tokenizers.{name}.{key}: the items get no vectors of the name "
                        f"'{modality}' ({', '.join(known)}); add embed.more.{modality}"
                    )

    def _check_rewards(self) -> None:
        ranked = None if self.ranking is None else self.ranking.tokenizer
        for name, generator in self.all_generators.items():
            speaks = generator.tokenizers or tuple(self.tokenizers)
            if generator.asks_ranker and set(speaks) != {ranked}:
                raise ValueError(
                    f"generator '{name}': align.rewards.ranker asks the CTR model of the section "
                    f"'ranking', which must be there and be that of the generator's only "
                    f"tokenizer, got ranking.tokenizer {ranked} and tokenizers {', '.join(speaks)}"
                )

    def _check_two_tower(self) -> None:
        section = self.baselines.two_tower
        if section is None:
            return
        tokenizer = self.tokenizers.get(section.tokenizer)
        if not isinstance(tokenizer, DasConfig) or not tokenizer.uses_icdm:
            raise ValueError(
                f"baselines.two_tower.tokenizer: expected one of `tokenizers` of method das with "
                f"a collaborative model, got '{section.tokenizer}'"
            )

    def _check_fusions(self) -> None:
        known = self.list_methods
        for name, fusion in self.fusions.items():
            if name in known:
                raise ValueError(f"fusions: '{name}' is the name of another method; choose another")
            for method in fusion.methods:
                if method not in known:
                    raise ValueError(
                        f"fusions.{name}.methods: '{method}' makes no lists in this config; known: "
                        f"{', '.join(known) or 'none'}"
                    )

    @property
    def list_methods(self) -> list[str]:
        """Names of the methods that make lists of their own, in the order of the tables."""
        names = [name for name in BASELINES if getattr(self.baselines, name) is not None]
        for name in self.tokenizers:
            for variant in self.variants_of(name):
                names += list_names(name, variant, self.all_generators[variant])
        if self.ranking is not None and MAIN in self.variants_of(self.ranking.tokenizer):
            names.append(self.ranking.tokenizer + RANKED)
        return names

    @property
    def all_generators(self) -> dict[str, GeneratorConfig]:
        """By variant; the section `generator` is the variant "main"."""
        main = {} if self.generator is None else {MAIN: self.generator}
        return main | self.generators

    def variants_of(self, tokenizer: str) -> list[str]:
        """Names of the generators that make lists on the SIDs of a tokenizer."""
        return [
            name
            for name, generator in self.all_generators.items()
            if generator.tokenizers is None or tokenizer in generator.tokenizers
        ]


def load_run_config(path: str | Path, overrides: list[str] | None = None) -> RunConfig:
    """Read and check a run config.

    Raises:
        FileNotFoundError: no such file.
        ValueError: every fault on a line of its own, naming file, section and key.
    """
    document: dict[str, Any] = apply_overrides(read_yaml(path), overrides or [])
    return build_config(RunConfig, document, str(path))
