"""Answers from an OpenAI-compatible endpoint."""

import http.client
import itertools
import json
import logging
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import Any

from pydantic import Field, field_validator

from dasrec.core.config import StageConfig

log = logging.getLogger(__name__)

LONGEST_WAIT = 60.0
"""Seconds between two tries at most."""


class EndpointConfig(StageConfig):
    """A server that answers POST {base_url}/chat/completions."""

    base_url: str
    """E.g. http://localhost:8000/v1."""

    model: str
    """Model name that the server knows."""

    revision: str | None = None
    """Any word that tells versions of the model apart; a new one asks everything again."""

    api_key_env: str | None = None
    """Environment variable that holds the API key; null sends none."""

    options: dict[str, Any] = Field(default_factory=dict)
    """Further keys of the request body (or other values of ours: temperature 0, max_tokens);
    null takes a key away."""

    concurrency: int = Field(default=8, ge=1)
    """Requests under way at a time."""

    timeout_seconds: float = Field(default=120.0, gt=0)
    """Wait for an answer."""

    max_retries: int = Field(default=6, ge=0)
    """Tries after the first where the server is busy (429), fails (5xx) or is not reached."""

    backoff_seconds: float = Field(default=1.0, ge=0)
    """Wait before the first of these, doubled each time; at least the server's Retry-After."""

    @field_validator("base_url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"expected http://... or https://..., got {url!r}")
        return url.rstrip("/")

    def identity(self, max_new_tokens: int) -> dict[str, object]:
        """What determines an answer, apart from the prompt."""
        body = self.body("", max_new_tokens)
        del body["messages"]
        return {"revision": self.revision, "body": body}

    def body(self, prompt: str, max_new_tokens: int) -> dict[str, Any]:
        """The request for a prompt."""
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": max_new_tokens,
            **self.options,
        }
        return {key: value for key, value in body.items() if value is not None}


def endpoint_answers(
    config: EndpointConfig, prompts: list[str], max_new_tokens: int
) -> Iterator[tuple[str, str]]:
    """(prompt, answer) as they come.

    Where a request fails for good, those under way are still waited for and given out, so that
    what was paid for is kept.

    Raises:
        ValueError: no API key, or a request that failed for good.
    """
    headers = {"Content-Type": "application/json"}
    if config.api_key_env is not None:
        key = os.environ.get(config.api_key_env)
        if not key:
            raise ValueError(
                f"describe.endpoint.api_key_env: the environment variable {config.api_key_env} "
                "is not set; export the API key under this name"
            )
        headers["Authorization"] = f"Bearer {key}"

    stop = threading.Event()

    def ask(prompt: str) -> str | None:
        if stop.is_set():
            return None
        body = json.dumps(config.body(prompt, max_new_tokens)).encode()
        try:
            return _ask(config, body, headers)
        except ValueError:
            stop.set()
            raise

    with ThreadPoolExecutor(config.concurrency) as pool:
        try:
            for block in _blocks(prompts, 16 * config.concurrency):
                yield from _as_answered({pool.submit(ask, prompt): prompt for prompt in block})
        finally:
            stop.set()  # interrupted: what waits in the pool is not asked any more


def _as_answered(futures: dict[Future[str | None], str]) -> Iterator[tuple[str, str]]:
    """(prompt, answer) of all requests that succeed; then the first failure is raised."""
    failure: BaseException | None = None
    for future in as_completed(futures):
        error = future.exception()
        failure = failure or error
        if error is None and (text := future.result()) is not None:
            yield futures[future], text
    if failure is not None:
        raise failure


def _blocks(prompts: list[str], size: int) -> Iterator[list[str]]:
    rest = iter(prompts)
    while block := list(itertools.islice(rest, size)):
        yield block


def _ask(config: EndpointConfig, body: bytes, headers: dict[str, str]) -> str:
    """One request, tried again while the server is busy."""
    url = f"{config.base_url}/chat/completions"
    for attempt in itertools.count():
        wait = config.backoff_seconds * 2**attempt
        try:
            request = urllib.request.Request(url, body, headers)
            with urllib.request.urlopen(request, timeout=config.timeout_seconds) as response:
                return _content(response.read(), url)
        except urllib.error.HTTPError as error:
            detail = f"{error.code} {error.reason}: {error.read(300).decode(errors='replace')}"
            final = error.code != 429 and error.code < 500
            asked = error.headers.get("Retry-After", "")
            wait = max(wait, float(asked)) if asked.isdigit() else wait
        except (OSError, http.client.HTTPException) as error:  # not reached, cut off or timed out
            detail, final = str(error), False
        if final or attempt >= config.max_retries:
            raise ValueError(
                f"describe.endpoint: {url} answered {detail} (try {attempt + 1}); answers so far "
                "are kept: mend the cause and run the stage again"
            )
        log.debug("describe: %s; again in %.1f s", detail, wait)
        time.sleep(min(wait, LONGEST_WAIT))
    raise AssertionError("unreachable")


def _content(raw: bytes, url: str) -> str:
    try:
        return str(json.loads(raw)["choices"][0]["message"]["content"] or "").strip()
    except (ValueError, KeyError, IndexError, TypeError):
        raise ValueError(
            f"describe.endpoint: {url} did not answer in the form of /chat/completions: "
            f"{raw[:300].decode(errors='replace')}"
        ) from None
