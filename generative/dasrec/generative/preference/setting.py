"""What both methods of alignment need beside the model."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from dasrec.core import Corpus, SemanticIds
from dasrec.generative.data.config import DataConfig
from dasrec.generative.model.load import Generator
from dasrec.generative.preference.config import AlignConfig
from dasrec.generative.preference.plan import AlignPlan, PromptBatches
from dasrec.generative.preference.prompts import Prompts, training_prompts
from dasrec.generative.preference.scoring import CandidateScorer
from dasrec.generative.retrieve import build_trie
from dasrec.generative.training.trainer import trainer_arguments
from dasrec.generative.training.validation import Validator


class Setting(NamedTuple):
    """Data, scores, judge and trainer options of one alignment."""

    corpus: Corpus
    sids: SemanticIds
    generator: Generator
    prompts: Prompts
    scorer: CandidateScorer
    validator: Validator | None
    arguments: dict[str, Any]
    """For TrainingArguments or DPOConfig."""
    work: Path
    seed: int
    name: str

    def plan(
        self, numbers: npt.NDArray[np.int64], collator: Any, batch_size: int, times: int = 1
    ) -> AlignPlan:
        """Batches of some prompts, each coming `times` times."""
        lengths = self.prompts.tokens.lengths[numbers]
        batches = PromptBatches(lengths, batch_size, self.seed, times)
        return AlignPlan(numbers, batches, collator, self.validator)


def prepare(
    config: AlignConfig,
    generator: Generator,
    corpus: Corpus,
    sids: SemanticIds,
    work: Path,
    seed: int,
    name: str,
) -> Setting:
    """Render the prompts, build the trie, draw the validation queries.

    Raises:
        ValueError: several processes or GPUs, no prompt, or nothing to validate on.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("align: runs in one process; start dasrec without a launcher")
    if torch.cuda.device_count() > 1:
        raise ValueError(
            f"align: runs on one GPU, {torch.cuda.device_count()} are visible; set "
            "CUDA_VISIBLE_DEVICES to one"
        )
    builder = generator.sequence_builder(corpus, sids)
    judge = DataConfig(
        validation_queries=config.validation_queries, validation_beams=config.validation_beams
    )
    trie = build_trie(corpus, sids, generator.vocabulary).to(generator.model.device)
    return Setting(
        corpus=corpus,
        sids=sids,
        generator=generator,
        prompts=training_prompts(
            corpus, builder, config.positions_per_user, config.max_prompts, seed
        ),
        scorer=CandidateScorer(trie, sids),
        validator=Validator(judge, corpus, sids, builder) if judge.validation_queries else None,
        arguments=trainer_arguments(judge, config.trainer_options, work, seed),
        work=work,
        seed=seed,
        name=name,
    )
