"""What a generator is trained and validated on."""

from typing import Literal

from pydantic import Field, model_validator

from dasrec.core import StageConfig


class TaskWeights(StageConfig):
    """Per task the share of its rows that is drawn in an epoch; a task that is not named gets 0.

    The tasks beside `next_item` are those of LC-Rec (2311.09049), PLUM (2510.07784) and MiniOneRec
    (2510.24431). All are made from item texts and training interactions.
    """

    next_item: float = Field(1.0, ge=0, le=1)
    """History of SIDs -> each next SID."""

    item_to_text: float = Field(0.0, ge=0, le=1)
    """SID -> the item's text."""

    text_to_item: float = Field(0.0, ge=0, le=1)
    """An item's text -> its SID."""

    titles_to_item: float = Field(0.0, ge=0, le=1)
    """History of item texts -> the next SID."""

    history_to_text: float = Field(0.0, ge=0, le=1)
    """History of SIDs -> the next item's text."""

    intention_to_item: float = Field(0.0, ge=0, le=1)
    """Words for what is wanted, with and without a history -> the SID of such an item."""

    user_to_preferences: float = Field(0.0, ge=0, le=1)
    """User SID -> words that stand out in the user's training history."""

    explain: float = Field(0.0, ge=0, le=1)
    """History of SIDs and an item's SID -> words that the item shares with the history."""

    @model_validator(mode="after")
    def _any(self) -> "TaskWeights":
        if not any(self.model_dump().values()):
            raise ValueError("all tasks have weight 0; give at least one a share, e.g. next_item")
        return self

    @property
    def reads_text(self) -> bool:
        """Whether any task has text in its rows."""
        return any(share for name, share in self.model_dump().items() if name != "next_item")


class DataConfig(StageConfig):
    """What the model is trained and validated on."""

    user_dropout: float = Field(0.3, ge=0, lt=1)
    """Share of training sequences whose user SID is hidden; to hide all, set prompt.user_sid."""

    tasks: TaskWeights = TaskWeights()
    """What is trained, and how often."""

    rows: Literal["positions", "prefixes"] = "positions"
    """`positions`: every item of a history is a target, all in one pass. `prefixes`: one example
    per target with the history before it, as LC-Rec and TIGER train; for comparison."""

    batching: Literal["packed", "padded"] = "packed"
    """`packed`: random rows one after the other, without padding. `padded`: rows of similar length
    together, for models that cannot run on packed rows."""

    max_text_tokens: int = Field(32, ge=1)
    """Text tokens per item at most."""

    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Label smoothing of the token losses."""

    validation_queries: int = Field(2000, ge=0)
    """Validation queries (a fixed random subset) that choose the best epoch; 0 keeps the last."""

    validation_beams: int = Field(20, ge=1)
    """Beams of the validation lists."""
