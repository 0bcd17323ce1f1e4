"""`dasrec sweep`: trials of one config, each a run directory of its own.

Trials share what they have in common: an artifact that an earlier one made from the same config,
inputs and seed is linked, not made again. Only validation figures decide.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from rich.table import Table

from dasrec.cli.config import RunConfig
from dasrec.cli.pipeline import Run
from dasrec.cli.sweep_config import SweepConfig
from dasrec.cli.sweep_search import LOG, Trial, ranked, read_trials, search
from dasrec.cli.sweep_target import Needs, validation_figure
from dasrec.core.config import build_config, set_keys
from dasrec.eval.tables import number, rich_table

log = logging.getLogger(__name__)

IDENTITY = "sweep.json"
BEST = "best.yaml"


class Sweep:
    """A sweep's folder: trials/NUMBER, sweep.jsonl, best.yaml."""

    def __init__(
        self,
        document: dict[str, Any],
        where: str,
        out: Path,
        data_dir: Path | None = None,
        reuse: Sequence[Path] = (),
    ) -> None:
        """Check the sweep.

        Args:
            document: the run config with its section `sweep`, as read from YAML.
            where: the file's name, for messages.
            out: the sweep's folder.
            data_dir: raw data.
            reuse: run directories whose artifacts are taken over where they fit.

        Raises:
            ValueError: a faulty config, no section `sweep`, or one whose keys, target or values
                lead to no run at all.
        """
        settings = build_config(RunConfig, document, where)
        if settings.sweep is None:
            raise ValueError(f"{where}: the config has no section 'sweep', which says what to try")
        self.config: SweepConfig = settings.sweep
        self.document = {key: value for key, value in document.items() if key != "sweep"}
        self.where, self.out, self.data_dir, self.reuse = where, out, data_dir, reuse
        Run(Needs(settings, self.config.of).trimmed(), out, data_dir)  # asks for --data
        self._check_values()
        self._check_effect()

    def run(self) -> list[Trial]:
        """Run the trials that are missing; write best.yaml after each.

        Raises:
            ValueError: the folder holds another sweep, another call is at work in it, or no trial
                went well.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.out / ".sweep.lock", blocking=False):
                self._claim()
                for trials in search(self.config, self.out, self._attempt, self._judge):
                    self._write_best(trials)
        except Timeout:
            raise ValueError(f"{self.out}: another call is at work on this sweep") from None
        trials = read_trials(self.out)
        if all(trial.value is None for trial in trials):
            raise ValueError(
                f"{self.out}: all {len(trials)} trials failed, the first with {trials[0].error}; "
                f"mend it and remove {self.out / LOG} to try again"
            )
        return trials

    def table(self, trials: Sequence[Trial]) -> Table:
        """The trials for the terminal, best first."""
        keys = list(self.config.parameters)
        rows = [
            [
                str(trial.number),
                number(trial.value) if trial.value is not None else trial.state,
                *(_shown(trial.params[key]) for key in keys),
                f"{trial.seconds:.0f}",
            ]
            for trial in ranked(self.config, trials)
        ]
        title = f"{self.config.metric} of {self.config.of}, validation"
        last = [key.rpartition(".")[2] for key in keys]
        names = last if len(set(last)) == len(last) else keys
        return rich_table(["trial", "value", *names, "seconds"], rows, title)

    def settings(self, params: dict[str, Any]) -> RunConfig:
        """The run config of a trial."""
        return build_config(RunConfig, set_keys(self.document, params), self.where)

    def trial_path(self, trial: int) -> Path:
        """The run directory of a trial."""
        return self.out / "trials" / f"{trial:04d}"

    def _attempt(self, trial: int, params: dict[str, Any]) -> None:
        needs = Needs(self.settings(params), self.config.of)
        others = [*self.reuse, *(self.trial_path(earlier) for earlier in range(trial))]
        run = Run(
            needs.trimmed(), self.trial_path(trial), self.data_dir, needs.stages, reuse=others
        )
        run.variants = [name for name in run.variants if name in needs.generators]
        run.execute()

    def _judge(self, trial: int) -> float:
        return validation_figure(self.trial_path(trial), self.config.of, self.config.metric)

    def _check_values(self) -> None:
        """Refuse values of which no combination is a config: a misspelt key, say."""
        if self.config.sampler == "grid":
            tried = self.config.grid
        else:
            ends = {key: each.ends for key, each in self.config.parameters.items()}
            tried = [{key: pair[side] for key, pair in ends.items()} for side in (0, 1)]
        first_fault = None
        for params in tried:
            try:
                self.settings(params)
            except ValueError as error:
                first_fault = first_fault or error
            else:
                return
        assert first_fault is not None
        raise ValueError(f"sweep.parameters: no combination is a valid config\n{first_fault}")

    def _check_effect(self) -> None:
        """Refuse a parameter that what is judged does not depend on."""
        for key, parameter in self.config.parameters.items():
            try:
                tried = [self.settings({key: v}) for v in parameter.choices or parameter.ends]
                parts = [Needs(each, self.config.of).trimmed() for each in tried]
            except ValueError:
                continue  # a value that is valid only together with others
            if any(each != tried[0] for each in tried) and all(e == parts[0] for e in parts):
                raise ValueError(
                    f"sweep.parameters.{key}: {self.config.of} does not depend on it; judge "
                    "something else or leave it out"
                )

    def _claim(self) -> None:
        """Say whose trials the folder holds, or check that they are this sweep's."""
        from dasrec.core.prepare import describe_raw

        config = self.config.as_json()
        config.pop("trials")  # may be raised to go on
        identity: dict[str, Any] = {"document": self.document, "sweep": config, "raw": None}
        settings = self.settings({})
        if settings.synthetic is None:
            assert self.data_dir is not None
            identity["raw"] = describe_raw(settings.prepare, self.data_dir).fingerprint
        identity = json.loads(json.dumps(identity, default=str))
        path = self.out / IDENTITY
        if not path.exists():
            path.write_text(json.dumps(identity, indent=2) + "\n")
        elif (stored := json.loads(path.read_text())) != identity:
            parts = [name for name in identity if stored.get(name) != identity[name]]
            raise ValueError(
                f"{self.out}: holds the trials of another sweep (its {', '.join(parts)} "
                "differ); choose another --out"
            )

    def _write_best(self, trials: Sequence[Trial]) -> None:
        done = [trial for trial in ranked(self.config, trials) if trial.value is not None]
        if not done:
            return
        best, config = done[0], self.config
        text = (
            f"# {config.metric} of {config.of}, validation: {best.value:.6g}; trial {best.number}, "
            f"the best of {len(trials)}\n"
        )
        text += yaml.safe_dump(set_keys(self.document, best.params), sort_keys=False)
        scratch = self.out / f".{BEST}"
        scratch.write_text(text)
        scratch.replace(self.out / BEST)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)
