"""Answers of language models on disk: an interrupted stage goes on, nothing is asked twice."""

import hashlib
import json
import logging
import os
from collections.abc import Collection, Mapping
from pathlib import Path

log = logging.getLogger(__name__)


def answer_key(model: Mapping[str, object], prompt: str) -> str:
    """Digest of all that determines an answer: model, revision, options and prompt."""
    text = json.dumps([model, prompt], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


class AnswerCache:
    """An append-only JSONL file of (key, text), one line per answer, flushed line by line."""

    def __init__(self, path: Path) -> None:
        """Open the file for appending; it is made if it is not there."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("a+b")
        if self._file.tell() > 0:
            self._file.seek(-1, os.SEEK_END)
            if self._file.read(1) != b"\n":  # the line that an interruption cut short
                self._file.write(b"\n")

    def find(self, keys: Collection[str]) -> dict[str, str]:
        """Answers among `keys` that are there; lines cut short are passed over."""
        wanted, found, broken = set(keys), {}, 0
        with self.path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if not line.strip():
                    continue
                try:
                    key, text = json.loads(line)
                except ValueError:
                    broken += 1
                    continue
                if key in wanted:
                    found[key] = text
        if broken:
            log.warning("describe: %s: %d lines cut short are asked again", self.path, broken)
        return found

    def add(self, key: str, text: str) -> None:
        """Append an answer; it is on disk when this returns."""
        self._file.write(json.dumps([key, text], ensure_ascii=False).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
