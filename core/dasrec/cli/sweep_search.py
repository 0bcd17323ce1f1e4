"""The search of a sweep: which values come next, and the log of what was found.

The log (`sweep.jsonl`) is all the state there is. What the sampler learns from is read from it, and
every trial draws with a seed of its own, so a sweep that was stopped and started again tries what
it would have tried.
"""

import json
import logging
import math
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from dasrec.cli.sweep_config import Parameter, SweepConfig
from dasrec.core.config import StageConfig, build_config
from dasrec.core.seeding import derive_seed

log = logging.getLogger(__name__)

LOG = "sweep.jsonl"


class Trial(StageConfig):
    """One line of the log."""

    number: int
    """From 0."""

    params: dict[str, Any]
    """The values tried, by key."""

    state: Literal["done", "failed"]
    """A failed trial has an error instead of a value."""

    value: float | None = None
    """What the metric said."""

    error: str = ""
    """What went wrong."""

    seconds: float = 0.0
    """Wall time, stages that were taken over not counted."""


def search(
    config: SweepConfig,
    out: Path,
    attempt: Callable[[int, dict[str, Any]], object],
    judge: Callable[[int], float],
) -> Iterator[list[Trial]]:
    """Try values until there are enough trials, going on where an earlier call stopped.

    Args:
        config: the sweep.
        out: holds the log.
        attempt: runs a trial, given its number and values. Its errors are recorded, and the
            search goes on.
        judge: figure of an attempt that went well. Its errors end the search: they mean that the
            sweep asks for a figure that there is not.

    Yields:
        After each trial all so far, in the order they were tried.
    """
    trials = read_trials(out)
    for number in range(len(trials), config.num_trials):
        params = propose(config, number, trials)
        shown = " ".join(f"{key}={value}" for key, value in params.items())
        log.info("sweep: trial %d of %d: %s", number + 1, config.num_trials, shown)
        began = time.perf_counter()
        found: dict[str, Any]
        try:
            attempt(number, params)
        except Exception as error:  # recorded, shown, and the traceback is kept
            found = {"state": "failed", "error": f"{type(error).__name__}: {error}"}
            (out / f"trial_{number:04d}.error.txt").write_text(traceback.format_exc())
        else:
            value = float(judge(number))
            found = {"state": "done", "value": value}
            if not math.isfinite(value):
                found = {"state": "failed", "error": f"{config.metric} is {value}"}
        seconds = round(time.perf_counter() - began, 1)
        trials.append(Trial(number=number, params=params, seconds=seconds, **found))
        _write(out, trials)
        log.info("sweep: trial %d: %s", number + 1, found.get("value", found.get("error")))
        yield trials


def ranked(config: SweepConfig, trials: Sequence[Trial]) -> list[Trial]:
    """Best first, the earlier of equals first, failed ones last."""
    sign = -1 if config.goal == "max" else 1
    done = [trial for trial in trials if trial.value is not None]
    failed = [trial for trial in trials if trial.value is None]
    return sorted(done, key=lambda trial: sign * (trial.value or 0.0)) + failed


def read_trials(out: Path) -> list[Trial]:
    """The log of a sweep; empty where there is none."""
    path = out / LOG
    if not path.exists():
        return []
    lines = path.read_text().splitlines()
    return [
        build_config(Trial, json.loads(line), f"{path}: {n}") for n, line in enumerate(lines, 1)
    ]


def _write(out: Path, trials: Sequence[Trial]) -> None:
    scratch = out / f".{LOG}"
    scratch.write_text("".join(json.dumps(trial.as_json()) + "\n" for trial in trials))
    scratch.replace(out / LOG)


def propose(config: SweepConfig, number: int, trials: Sequence[Trial]) -> dict[str, Any]:
    """The values of a trial, given those before it.

    Raises:
        ValueError: a sampler that needs Optuna, which is not installed.
    """
    if config.sampler == "grid":
        return config.grid[number]
    try:
        import optuna
    except ModuleNotFoundError:
        raise ValueError(
            f"sweep.sampler: '{config.sampler}' needs the package optuna; pip install "
            "'dasrec[sweep]', or take the sampler grid"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    samplers = {"random": optuna.samplers.RandomSampler, "tpe": optuna.samplers.TPESampler}
    seed = derive_seed(config.seed, "sweep", number) % (1 << 32)
    study = optuna.create_study(
        direction="maximize" if config.goal == "max" else "minimize",
        sampler=samplers[config.sampler](seed=seed),
    )
    spaces = {key: _distribution(each) for key, each in config.parameters.items()}
    states = {"done": optuna.trial.TrialState.COMPLETE, "failed": optuna.trial.TrialState.FAIL}
    for trial in trials:
        study.add_trial(
            optuna.trial.create_trial(
                state=states[trial.state],
                value=trial.value,
                params=_encoded(config.parameters, trial.params),
                distributions=spaces,
            )
        )
    drawn = study.ask(spaces).params
    return {
        key: drawn[key] if each.choices is None else each.choices[drawn[key]]
        for key, each in config.parameters.items()
    }


def _distribution(parameter: Parameter) -> Any:
    """Optuna's; choices stand for their places, because its own must be numbers or words."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if parameter.choices is not None:
        return CategoricalDistribution(range(len(parameter.choices)))
    assert parameter.low is not None
    assert parameter.high is not None
    if parameter.is_whole:
        step = 1 if parameter.step is None else int(parameter.step)
        return IntDistribution(int(parameter.low), int(parameter.high), parameter.log, step)
    return FloatDistribution(
        float(parameter.low), float(parameter.high), parameter.log, parameter.step
    )


def _encoded(parameters: Mapping[str, Parameter], params: Mapping[str, Any]) -> dict[str, Any]:
    """Values as Optuna knows them."""
    encoded = {}
    for key, parameter in parameters.items():
        if parameter.choices is None:
            encoded[key] = params[key]
        else:
            as_text = [json.dumps(choice) for choice in parameter.choices]
            encoded[key] = as_text.index(json.dumps(params[key]))
    return encoded
