"""The sweep's section of the run config: which values to try, and what judges them."""

import itertools
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from dasrec.core.config import StageConfig

Number = int | float


class Parameter(StageConfig):
    """Values that one key of the config can take: a list of choices, or a range."""

    choices: tuple[Any, ...] | None = Field(default=None, min_length=1)
    """Values of any kind, null and whole sections too."""

    low: Number | None = None
    """Smallest value of a range. Whole numbers at both ends give whole numbers."""

    high: Number | None = None
    """Largest value."""

    log: bool = False
    """Draw the logarithm evenly."""

    step: Number | None = Field(default=None, gt=0)
    """Only low, low + step, ...; a grid needs it."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.choices is not None:
            if self.model_fields_set != {"choices"}:
                raise ValueError("give either choices or a range (low, high, log, step), not both")
            return self
        if self.low is None or self.high is None or self.low > self.high:
            raise ValueError(
                f"give choices, or low and high with low <= high, got {self.low} and {self.high}"
            )
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log: needs low above 0, and no step")
        if self.is_whole and not isinstance(self.step, int | None):
            raise ValueError(f"step: must be whole between whole numbers, got {self.step}")
        return self

    @property
    def is_whole(self) -> bool:
        """Whether a range holds whole numbers only."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def values(self) -> tuple[Any, ...]:
        """All values, in order.

        Raises:
            ValueError: a range without a step.
        """
        if self.choices is not None:
            return self.choices
        assert self.low is not None
        assert self.high is not None
        if self.step is None:
            raise ValueError("a grid needs choices, or a range with a step")
        count = int((self.high - self.low) / self.step + 1e-9) + 1
        return tuple(self.low + place * self.step for place in range(count))

    @property
    def ends(self) -> tuple[Any, Any]:
        """The first and the last value."""
        if self.choices is not None:
            return self.choices[0], self.choices[-1]
        return self.low, self.high


class SweepConfig(StageConfig):
    """A search over values of the config, judged on validation."""

    parameters: dict[str, Parameter] = Field(min_length=1)
    """By dotted key of the run config, e.g. `baselines.sasrec.dropout`."""

    of: str
    """The artifact that is judged, by its place in the run: reports/METHOD (metrics of lists),
    sids/NAME, models/sasrec, bases/NAME, generators/NAME, aligned/NAME, item_heads/NAME or
    rankers/NAME. Only the stages that it needs are run."""

    metric: str = "ndcg@10"
    """Its figure on the validation split; slices as in `ndcg@10[tie_free]`."""

    goal: Literal["max", "min"] = "max"
    """Whether large or small figures are good."""

    sampler: Literal["grid", "random", "tpe"] = "grid"
    """All combinations, independent draws, or Optuna's tree-structured Parzen estimator, which
    draws near what did well."""

    trials: int | None = Field(default=None, ge=1)
    """How many; none given = the whole grid. May be raised later to go on."""

    seed: int = 0
    """Of the draws; the trials' own seed is the run's."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.sampler != "grid":
            if self.trials is None:
                raise ValueError(f"trials: the sampler '{self.sampler}' needs to know how many")
            return self
        for key, parameter in self.parameters.items():
            try:
                parameter.values()
            except ValueError as error:
                raise ValueError(f"parameters.{key}: {error}") from None
        return self

    @property
    def grid(self) -> list[dict[str, Any]]:
        """All combinations; the last key changes fastest."""
        columns = [parameter.values() for parameter in self.parameters.values()]
        return [dict(zip(self.parameters, row, strict=True)) for row in itertools.product(*columns)]

    @property
    def num_trials(self) -> int:
        """Trials of the finished sweep."""
        if self.sampler == "grid":
            return min(self.trials or len(self.grid), len(self.grid))
        assert self.trials is not None
        return self.trials
