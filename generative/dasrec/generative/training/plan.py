"""What a trainer is given: the rows, how they are batched, and how the model is judged."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from accelerate.utils import parse_flag_from_env
from datasets import Dataset, concatenate_datasets

from dasrec.core import Corpus, SemanticIds
from dasrec.core.processes import processes
from dasrec.generative.data.batches import BatchSampler, EpochLoader, RowReader
from dasrec.generative.data.config import DataConfig
from dasrec.generative.data.packing import Collator
from dasrec.generative.data.sequences import SequenceBuilder
from dasrec.generative.data.tasks import training_rows
from dasrec.generative.model.packed_attention import check_packed
from dasrec.generative.retrieve import query_prompts
from dasrec.generative.training.loss import SidLoss
from dasrec.generative.training.validation import Validator


class TrainingPlan(NamedTuple):
    """The rows, how they are batched, and how the model is judged."""

    dataset: Dataset
    """Rows of all tasks: input_ids and labels."""
    batches: BatchSampler
    collator: Collator
    sid_loss: SidLoss
    validator: Validator | None
    mean_targets: float | None
    """Targets of a batch on average, over all processes, where batches are of like length. Such a
    batch's loss is divided by it: divided by the batch's own count, a target of a short row would
    weigh more than one of a long row. None where batches are random."""

    def loader(self, args: Any) -> EpochLoader:
        """This process's batches; accelerate is not to split them once more."""
        return EpochLoader(
            RowReader(self.dataset),
            batch_sampler=self.batches,
            collate_fn=self.collator,  # type: ignore[arg-type]  # it gets what the reader reads
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
        )


def plan_training(
    config: DataConfig,
    corpus: Corpus,
    sids: SemanticIds,
    builder: SequenceBuilder,
    tokenizer: Any,
    model: Any,
    args: Any,
) -> TrainingPlan:
    """Render the training rows of all tasks and what goes with them.

    Args:
        config: tasks, rows, batching, validation.
        corpus: whose training interactions are learned.
        sids: of its items and users.
        builder: renders histories in the model's prompt format.
        tokenizer: of the item texts.
        model: what is trained.
        args: TrainingArguments with the batch size, the seed and the folder for the rows.

    Raises:
        ValueError: rows or requests longer than the model's positions, a model that cannot be
            trained on packed rows, nothing to validate on, validation of a sharded model, or
            several GPUs for a single process.
    """
    if args.n_gpu > 1:
        raise ValueError(
            f"{args.n_gpu} GPUs are visible to one process; start dasrec with accelerate launch to "
            "use them all, or set CUDA_VISIBLE_DEVICES to one"
        )
    if parse_flag_from_env("ACCELERATE_USE_FSDP") and config.validation_queries:
        raise ValueError(
            "validation_queries: a model that is cut into shards (FSDP) cannot generate between "
            "epochs; set it to 0 to keep the last epoch"
        )
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    folder = Path(args.output_dir) / "rows"
    tasks = training_rows(
        config, corpus, builder, tokenizer, folder, max_tokens=limit, seed=args.seed
    )
    longest = max(int(task.lengths.max()) for task in tasks)
    if limit is not None:
        _check_lengths(limit, longest, _longest_request(corpus, builder))
    packed = config.batching == "packed"
    if packed:
        check_packed(model, longest)
    state, vocabulary = processes(), builder.vocabulary
    batches = BatchSampler(
        [task.lengths for task in tasks],
        [task.share for task in tasks],
        args.per_device_train_batch_size,
        args.seed,
        grouped=not packed,
        user_dropout=config.user_dropout,
        process=state.process_index,
        processes=state.num_processes,
    )
    targets = sum(task.share * task.targets for task in tasks)
    return TrainingPlan(
        dataset=concatenate_datasets([task.rows for task in tasks]),
        batches=batches,
        collator=Collator(
            tokenizer.pad_token_id,
            vocabulary.control["<|user|>"],
            vocabulary.control["<|anonymous|>"],
            1 + len(vocabulary.user_levels),
            packed=packed,
        ),
        sid_loss=SidLoss(vocabulary, config.label_smoothing),
        validator=Validator(config, corpus, sids, builder) if config.validation_queries else None,
        mean_targets=None if packed else targets / len(batches),
    )


def _check_lengths(limit: int, row: int, request: int) -> None:
    for what, tokens in (("training row", row), ("request of the corpus", request)):
        if tokens > limit:
            raise ValueError(
                f"prompt.max_history, max_text_tokens: a {what} has {tokens} tokens, the model "
                f"{limit} positions; lower them or take a model with more"
            )


def _longest_request(corpus: Corpus, builder: SequenceBuilder) -> int:
    """Positions that the search takes for the valid or test query of the longest history."""
    queries = np.concatenate([corpus.queries("valid"), corpus.queries("test")])
    if not len(queries):
        return 0
    before = queries - corpus.user_start[corpus.user_idx[queries]]
    prompt = query_prompts(corpus, builder, queries[[before.argmax()]])
    levels: int = builder.item_tokens.shape[1]
    return int(prompt.lengths[0]) + levels - 1
