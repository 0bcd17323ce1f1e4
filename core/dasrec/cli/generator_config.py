"""The generator's section of the run config: one generator, or several variants to compare."""

from collections.abc import Mapping
from typing import Self

from pydantic import model_validator

from dasrec.core.config import StageConfig
from dasrec.generative.item_head.config import ItemHeadSection
from dasrec.generative.preference.config import AlignConfig, GrpoConfig
from dasrec.generative.retrieve import RetrieveConfig
from dasrec.generative.training.pretrain import PretrainConfig
from dasrec.generative.training.sft import SftConfig

MAIN = "main"
"""How `after` names the run's `generator`."""


class GeneratorConfig(StageConfig):
    """One generator, trained once per tokenizer, in up to three stages."""

    tokenizers: tuple[str, ...] | None = None
    """On whose SIDs it makes lists; none given = all of the run's tokenizers."""

    after: str | None = None
    """Start from what this other generator ends with ("main" or a key of `generators`)."""

    pretrain: PretrainConfig | None = None
    """Base model and training of all its weights; null only with `after`."""

    sft: SftConfig | None = None
    """Supervised fine-tuning, by LoRA or of all weights; null leaves it out."""

    align: AlignConfig | None = None
    """Preference alignment, by DPO or GRPO; null leaves it out."""

    retrieve: RetrieveConfig = RetrieveConfig()
    """Generation of the lists that are evaluated."""

    item_head: ItemHeadSection | None = None
    """Scores of whole items beside the beam's, for lists named METHOD_head; null leaves it out."""

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if (self.after is None) == (self.pretrain is None):
            raise ValueError("give either 'pretrain' or 'after' (the generator to go on from)")
        if not self.stages:
            raise ValueError("no stage to run: give sft or align with 'after'")
        head = self.item_head
        if head is not None and head.rank.weight is None and "valid" not in self.retrieve.splits:
            raise ValueError(
                "item_head.rank.weight is chosen on the validation split, of which retrieve.splits "
                "makes no lists; add valid, set the weight, or set item_head to null"
            )
        return self

    @property
    def stages(self) -> tuple[str, ...]:
        """Training stages in their order."""
        stages = ("pretrain", "sft", "align")
        return tuple(name for name in stages if getattr(self, name) is not None)

    @property
    def leaves_adapter(self) -> bool:
        """Whether its model is an adapter on a base model rather than a model of its own."""
        return self.align is not None or (self.sft is not None and self.sft.lora is not None)

    def has_head(self, tokenizer: str) -> bool:
        """Whether there is an item head for the model on the SIDs of a tokenizer."""
        section = self.item_head
        return section is not None and (
            section.tokenizers is None or tokenizer in section.tokenizers
        )

    @property
    def asks_ranker(self) -> bool:
        """Whether a CTR model's scores are part of its reward."""
        return isinstance(self.align, GrpoConfig) and self.align.rewards.ranker != 0


def chain_of(variant: str, generators: Mapping[str, GeneratorConfig]) -> list[str]:
    """A generator and those that it starts from, the last one first."""
    chain = [variant]
    while (config := generators.get(chain[-1])) is not None and config.after is not None:
        chain.append(config.after)
    return chain


def check_chain(main: GeneratorConfig | None, others: dict[str, GeneratorConfig]) -> None:
    """Refuse variants that start from nothing, from each other, or fine-tune an adapter.

    Raises:
        ValueError: naming the variant and what is wrong.
    """
    known = {**({} if main is None else {MAIN: main}), **others}
    if main is not None and main.after is not None:
        raise ValueError("generator.after: the run's generator starts with pretrain")
    for name, config in others.items():
        seen = [name]
        while (start := known[seen[-1]].after) is not None:
            if start in seen or start not in known:
                fault = "starts from itself" if start in seen else "is not there"
                raise ValueError(
                    f"generators.{name}.after: '{start}' {fault}; known: "
                    f"{', '.join(k for k in known if k != name) or 'none'}"
                )
            seen.append(start)
        if config.after is not None and config.sft and known[config.after].leaves_adapter:
            raise ValueError(
                f"generators.{name}.sft: '{config.after}' ends with an adapter, which sft cannot "
                "go on from; start after one whose last stage trained all weights"
            )
