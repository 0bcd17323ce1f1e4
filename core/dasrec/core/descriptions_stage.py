"""Stage `describe`: Corpus -> Descriptions, a language model's words about items and users.

DAS embeds these instead of the bare facts (das-method 1.1): an LLM reads what is known of an item,
or of a user and the training items, and writes a description. The LLM is not trained.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import polars as pl
from pydantic import Field, model_validator

from dasrec.core.artifacts import Manifest, check_free, write_artifact
from dasrec.core.config import StageConfig
from dasrec.core.corpus import Corpus
from dasrec.core.descriptions import Descriptions, load_descriptions
from dasrec.core.descriptions_cache import AnswerCache, answer_key
from dasrec.core.descriptions_endpoint import EndpointConfig, endpoint_answers
from dasrec.core.descriptions_local import LocalModelConfig, local_answers
from dasrec.core.descriptions_prompts import PromptConfig, item_prompts, user_prompts

log = logging.getLogger(__name__)


class DescribeConfig(StageConfig):
    """Config of the stage `describe`. Exactly one of `local` and `endpoint`."""

    local: LocalModelConfig | None = None
    """A model on this machine."""

    endpoint: EndpointConfig | None = None
    """A server."""

    prompts: PromptConfig = PromptConfig()
    """What it is asked."""

    max_new_tokens: int = Field(default=160, ge=1)
    """Longest description, in tokens."""

    cache: str | None = None
    """File of all answers ever given, by model, options and prompt (JSONL); name one outside the
    run directory to share it between runs. Null: beside the artifact."""

    @model_validator(mode="after")
    def _one_source(self) -> "DescribeConfig":
        if (self.local is None) == (self.endpoint is None):
            raise ValueError("give either 'local' or 'endpoint', not both or none")
        return self


def describe(
    config: DescribeConfig, corpus: Corpus, out: Path, *, seed: int = 0, replace: bool = False
) -> Descriptions:
    """Write the Descriptions artifact of a corpus.

    Every distinct prompt is asked once. Answers go to the cache at once, so that a stage that was
    interrupted goes on, and later catalogues ask about what is new only.

    Args:
        config: model and prompts.
        corpus: the catalogue, the profiles and the training interactions.
        out: the artifact directory to create.
        seed: kept in the manifest; decoding is greedy and draws nothing.
        replace: swap an artifact that is already there for the new one.

    Raises:
        ValueError: a missing column or API key, a model that cannot be loaded, a request that
            failed for good, or no description at all. No artifact is written then.
    """
    check_free(out, replace)
    inputs = describe_inputs(config, corpus)
    of_items, of_users = item_prompts(config.prompts, corpus), user_prompts(config.prompts, corpus)
    cache = out.with_name(f"{out.name}_cache.jsonl") if config.cache is None else Path(config.cache)
    texts, asked = _answers(config, {*of_items, *of_users} - {""}, cache)
    items = corpus.items.select("item_id").with_columns(text=_column(of_items, texts))
    users = corpus.users.select("user_id").with_columns(text=_column(of_users, texts))
    empty = sum(not text for text in texts.values())
    if empty == len(texts):
        raise ValueError(
            f"describe: all {len(texts)} answers are empty; if the model thinks before it answers, "
            "switch that off (local.chat_options, endpoint.options) or raise max_new_tokens"
        )
    if empty:
        log.warning("describe: %d of %d answers are empty", empty, len(texts))

    def payload(scratch: Path) -> None:
        items.write_parquet(scratch / "items.parquet")
        users.write_parquet(scratch / "users.parquet")

    write_artifact(
        out,
        "descriptions",
        config.as_json(),
        inputs,
        payload,
        seed=seed,
        metrics={"prompts": len(texts), "asked": asked, "empty": empty},
        replace=replace,
    )
    return load_descriptions(out, corpus)


def describe_inputs(config: DescribeConfig, corpus: Corpus) -> dict[str, Manifest]:
    """Manifests of all that `describe` reads: the corpus and a model that lies in a folder."""
    inputs = {"corpus": corpus.manifest}
    files = None if config.local is None else config.local.files()
    return inputs if files is None else inputs | {"model_files": files}


def _answers(
    config: DescribeConfig, prompts: set[str], cache_path: Path
) -> tuple[dict[str, str], int]:
    """Prompt -> answer, from the cache or the model; and how many the model was asked."""
    source = config.local or config.endpoint
    assert source is not None
    identity = source.identity(config.max_new_tokens)
    keys = {prompt: answer_key(identity, prompt) for prompt in sorted(prompts)}
    with closing(AnswerCache(cache_path)) as cache:
        known = cache.find(keys.values())
        missing = [prompt for prompt, key in keys.items() if key not in known]
        log.info("describe: %d prompts, %d of them new", len(keys), len(missing))
        for number, (prompt, text) in enumerate(_ask(config, missing), start=1):
            if text:  # an empty answer is worth another try
                cache.add(keys[prompt], text)
            known[keys[prompt]] = text
            if number % 1000 == 0:
                log.info("describe: %d of %d answered", number, len(missing))
    return {prompt: known[key] for prompt, key in keys.items()}, len(missing)


def _ask(config: DescribeConfig, prompts: list[str]) -> Iterator[tuple[str, str]]:
    if not prompts:
        return iter(())
    if config.local is not None:
        return local_answers(config.local, prompts, config.max_new_tokens)
    assert config.endpoint is not None
    return endpoint_answers(config.endpoint, prompts, config.max_new_tokens)


def _column(prompts: Sequence[str], texts: dict[str, str]) -> pl.Series:
    return pl.Series([texts.get(prompt, "") for prompt in prompts], dtype=pl.String)
