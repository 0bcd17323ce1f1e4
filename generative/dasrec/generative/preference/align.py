"""Stage `align`: go on from a trained generator with DPO or GRPO."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import Dataset
from transformers import TrainingArguments
from trl import DPOConfig

from dasrec.core import Corpus, Manifest, SemanticIds, check_free, seed_everything
from dasrec.generative.model.load import load_generator
from dasrec.generative.preference.artifact import (
    align_inputs,
    base_directory,
    open_adapter,
    write_generator,
)
from dasrec.generative.preference.config import AlignConfig, DpoConfig, GrpoConfig
from dasrec.generative.preference.dpo import DpoCollator, SidDpoTrainer
from dasrec.generative.preference.grpo import SidGrpoTrainer
from dasrec.generative.preference.negatives import rejected_items
from dasrec.generative.preference.plan import AlignPlan
from dasrec.generative.preference.rewards import RewardScores
from dasrec.generative.preference.rollouts import GrpoCollator
from dasrec.generative.preference.scoring import trained_weights
from dasrec.generative.preference.setting import Setting, prepare
from dasrec.generative.training.artifact import training_folder
from dasrec.generative.training.trainer import written_out
from dasrec.generative.training.validation import PRIMARY

log = logging.getLogger(__name__)

NEGATIVES = "negatives.npy"


def align(
    config: AlignConfig,
    start_path: Path,
    corpus: Corpus,
    sids: SemanticIds,
    out: Path,
    *,
    seed: int = 0,
    replace: bool = False,
    reward_scores: RewardScores | None = None,
) -> Manifest:
    """Align a generator with what users took next, on training positions only.

    The start is the reference, and what is written if no epoch is better on the validation
    queries. Resumes from the last finished epoch if it was interrupted.

    Args:
        config: the method and its options.
        start_path: a generator, or a base_model (which gets an adapter, `config.lora`).
        corpus: whose training sequences are asked.
        sids: those the start was trained on.
        out: directory of the new artifact.
        seed: of subsets, draws and batches.
        replace: overwrite `out`.
        reward_scores: a CTR model's scores, for `rewards.ranker` of GRPO.

    Returns:
        The manifest of the generator artifact: the adapter on the start's base model.

    Raises:
        FileExistsError: `out` exists and `replace` is false.
        ValueError: options that do not fit the start, or nothing to learn from.
    """
    check_free(out, replace)
    _check_rewards(config, reward_scores)
    inputs = align_inputs(start_path, corpus, sids, reward_scores)
    work = training_folder(out, "generator", config.as_json(), inputs, seed)
    generator = load_generator(start_path, sids)
    seed_everything(seed, "align")
    model = open_adapter(generator, config.lora, start_path)
    setting = prepare(config, generator, corpus, sids, work, seed, out.name)
    if isinstance(config, DpoConfig):
        metrics = _dpo(config, model, setting)
    else:
        metrics = _grpo(config, model, setting, reward_scores)
    return write_generator(
        out, config.as_json(), inputs, model, generator, base_directory(start_path), work,
        seed=seed, metrics=metrics, replace=replace,
    )  # fmt: skip


def _dpo(config: DpoConfig, model: Any, setting: Setting) -> dict[str, Any]:
    negatives = _negatives(config, model, setting)
    kept = np.flatnonzero((negatives >= 0).all(1))
    if negatives.shape[1] < config.negatives or not len(kept):
        raise ValueError(
            f"negatives: no prompt has {config.negatives} items that its user does not have in "
            "training; lower it"
        )
    left_out = len(negatives) - len(kept)
    if left_out:
        log.info("%s: %d prompts have too few items to reject", setting.name, left_out)
    items = np.concatenate([setting.prompts.targets[:, None], negatives], axis=1)
    collator = DpoCollator(setting.prompts, items)
    args = DPOConfig(**setting.arguments)
    rows = Dataset.from_dict({"prompt": kept})
    trainer = SidDpoTrainer(
        setting.scorer,
        model=model,
        args=args,
        train_dataset=rows,
        eval_dataset=rows.select([0]),  # `evaluate` generates instead
        data_collator=collator,
        processing_class=setting.generator.tokenizer,
    )
    trainer.fill_reference(kept)
    plan = setting.plan(kept, collator, args.per_device_train_batch_size)
    return _train(trainer, plan, config, setting.name)


def _negatives(config: DpoConfig, model: Any, setting: Setting) -> npt.NDArray[np.int64]:
    """(P, N) rejected items, kept for a run that resumes."""
    path = setting.work / NEGATIVES
    if not path.exists():
        model.eval()
        found = rejected_items(
            config,
            model,
            setting.scorer.trie,
            setting.corpus,
            np.asarray(setting.sids.items.codes),
            setting.prompts,
            seed=setting.seed,
            name=setting.name,
        )
        scratch = path.with_suffix(".part.npy")
        np.save(scratch, found)
        scratch.replace(path)
    negatives: npt.NDArray[np.int64] = np.load(path)
    return negatives


def _grpo(
    config: GrpoConfig, model: Any, setting: Setting, reward_scores: RewardScores | None
) -> dict[str, Any]:
    args = TrainingArguments(**setting.arguments)
    everything = np.arange(len(setting.prompts.rows))
    collator = GrpoCollator(setting.prompts, setting.corpus)
    rows = Dataset.from_dict({"prompt": everything})
    trainer = SidGrpoTrainer(
        config,
        setting.scorer,
        trained_weights(model),
        reward_scores,
        setting.seed,
        model=model,
        args=args,
        train_dataset=rows,
        eval_dataset=rows.select([0]),  # `evaluate` generates instead
        data_collator=collator,
    )
    times = config.updates_per_rollout
    plan = setting.plan(everything, collator, args.per_device_train_batch_size, times)
    return _train(trainer, plan, config, setting.name)


def _train(trainer: Any, plan: AlignPlan, config: AlignConfig, name: str) -> dict[str, Any]:
    """Train; the model ends with its best epoch's weights, or as it was if none was better."""
    model, validator = trainer.model, plan.validator
    start = trained_weights(model)
    before = validator(model) if validator is not None else {}
    shown = written_out(before) or "(not validated)"
    log.info("%s: %d prompts; before alignment  %s", name, len(plan.numbers), shown)
    trainer.start(plan, name, config.trainer)
    best = trainer.state.best_metric
    improved = not before or best is None or best >= before[PRIMARY]
    if not improved:
        log.warning("%s: no epoch was better than the start, which is kept", name)
        model.load_state_dict(start, strict=False)
    return {
        "prompts": len(plan.numbers),
        "before": before,
        "best": best,
        "improved": improved,
        "log": trainer.state.log_history,
    }


def _check_rewards(config: AlignConfig, reward_scores: RewardScores | None) -> None:
    wanted = isinstance(config, GrpoConfig) and config.rewards.ranker != 0
    if wanted and reward_scores is None:
        raise ValueError(
            "rewards.ranker: needs a trained CTR model, and none was given; set it to 0"
        )
    if reward_scores is not None and not wanted:
        raise ValueError("reward_scores: were given, but rewards.ranker is 0; set its weight")
