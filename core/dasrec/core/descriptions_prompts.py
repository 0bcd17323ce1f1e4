"""What the language model is asked: one prompt per item and per user (das-method 1.1, 4.1)."""

from pydantic import Field, ValidationInfo, field_validator

from dasrec.core.config import StageConfig
from dasrec.core.corpus import Corpus
from dasrec.core.texts import item_texts, user_texts

ITEM_PROMPT = """\
Below are the facts that a shop has about an item. Describe the item for people who choose what to
recommend: what it is, what it is used for, which features stand out, and who would like it. Keep
to the facts and to what follows from them. Answer with one paragraph of at most 80 words and
nothing else.

{item}"""

USER_PROMPT = """\
Below are the facts that a shop has about a user, with the items chosen lately, the latest first.
Describe the user for people who choose what to recommend: lasting interests, preferred kinds,
brands and styles, what the latest choices point to, and what would suit next. Keep to the facts
and to what follows from them. Answer with one paragraph of at most 80 words and nothing else.

{user}"""


class PromptConfig(StageConfig):
    """The prompts and what goes into them."""

    item: str = ITEM_PROMPT
    """Asked about an item; {item} stands for its columns."""

    user: str = USER_PROMPT
    """Asked about a user; {user} stands for the profile and the last training items."""

    item_columns: tuple[str, ...] | None = None
    """Item columns shown, in order; null takes the usual ones (title, brand, category, categories,
    description) that exist."""

    user_columns: tuple[str, ...] | None = None
    """Profile columns shown, in order; null takes the usual ones that exist."""

    max_history: int = Field(default=20, ge=0)
    """Training items shown of a user, most recent first."""

    max_characters: int = Field(default=4000, ge=1)
    """Longer facts are cut."""

    @field_validator("item", "user")
    @classmethod
    def _has_a_place(cls, text: str, info: ValidationInfo) -> str:
        place = f"{{{info.field_name}}}"
        if place not in text:
            raise ValueError(f"the prompt has no place for the facts; write {place} there")
        return text


def item_prompts(config: PromptConfig, corpus: Corpus) -> list[str]:
    """(I,) prompts; "" for an item of which nothing is known."""
    facts = item_texts(corpus, config.item_columns, section="describe.prompts.item_columns")
    return _fill(config.item, "{item}", facts.to_list(), config.max_characters)


def user_prompts(config: PromptConfig, corpus: Corpus) -> list[str]:
    """(U,) prompts from the profile and training interactions; "" where nothing is known."""
    facts = user_texts(
        corpus,
        config.user_columns,
        max_history=config.max_history,
        section="describe.prompts.user_columns",
    )
    return _fill(config.user, "{user}", facts.to_list(), config.max_characters)


def _fill(template: str, place: str, facts: list[str], longest: int) -> list[str]:
    return [template.replace(place, fact[:longest]) if fact else "" for fact in facts]
