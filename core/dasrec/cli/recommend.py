"""Recommendations for one user or one history: from external ids to titles and back."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.table import Table

from dasrec.cli.generator_steps import split_name, trained_model
from dasrec.core import Ragged, load_corpus, load_sids
from dasrec.generative import (
    build_trie,
    constrained_beam_search,
    load_generator,
)


@dataclass(frozen=True)
class Listed:
    """One item of a list."""

    item_id: str
    title: str
    sid: tuple[int, ...]
    score: float
    """Log-probability of the item's SID; NaN for an item of the history."""


@dataclass(frozen=True)
class Found:
    """What was asked and what came back."""

    who: str
    history: list[Listed]
    items: list[Listed]


class Recommender:
    """A trained run, ready to answer."""

    def __init__(self, run_dir: Path, method: str, generator_path: Path | None = None) -> None:
        """Load corpus, SIDs, generator and trie.

        Args:
            run_dir: the run directory.
            method: the tokenizer, or TOKENIZER.VARIANT for another generator than the main one.
            generator_path: a generator or base_model of this tokenizer; None takes what the last
                training stage of the run made.

        Raises:
            FileNotFoundError: a part of the run is missing.
            ValueError: the parts do not belong together.
        """
        self.corpus = load_corpus(run_dir / "corpus")
        self.sids = load_sids(run_dir / "sids" / split_name(method)[0], self.corpus.manifest)
        path = generator_path or trained_model(run_dir, method)
        self.generator = load_generator(path, self.sids)
        self.trie = build_trie(self.corpus, self.sids, self.generator.vocabulary)
        self.builder = self.generator.sequence_builder(self.corpus, self.sids)
        self.max_history = self.generator.prompt.max_history
        self._rows: dict[str, dict[str, int]] = {
            side: dict(zip(table[f"{side}_id"].to_list(), range(len(table)), strict=True))
            for side, table in (("item", self.corpus.items), ("user", self.corpus.users))
        }

    def recommend(
        self,
        user_id: str | None,
        history: list[str] | None,
        *,
        k: int = 10,
        num_beams: int = 50,
        exclude_seen: bool = False,
    ) -> Found:
        """The k most probable next items.

        Args:
            user_id: a user of the log; None is an anonymous user.
            history: item ids, oldest first; None takes all that the log has of the user.
            k: items to return.
            num_beams: beams per level.
            exclude_seen: never return an item of the history.

        Raises:
            ValueError: an unknown user or item.
        """
        user = None if user_id is None else self._row("user", user_id)
        times = None
        if history is None:
            assert user is not None
            rows = slice(self.corpus.user_start[user], self.corpus.user_start[user + 1])
            seen = np.array(self.corpus.item_idx[rows])
            times = np.array(self.corpus.timestamp[rows])[-self.max_history :]
        else:
            seen = np.array([self._row("item", item_id) for item_id in history], np.int32)
        recent = seen[-self.max_history :]
        users = None if user is None else np.array([user])
        prompt = self.builder.prompts(
            Ragged(recent, np.array([0, len(recent)])), users, times=times
        )
        device = self.generator.model.get_input_embeddings().weight.device
        ids = torch.from_numpy(prompt.tokens).unsqueeze(0).to(device)
        result = constrained_beam_search(
            self.generator.model,
            ids,
            torch.ones_like(ids),
            self.trie,
            num_beams=num_beams,
            num_items=min(k, self.corpus.num_items),
            excluded_items=[seen.tolist()] if exclude_seen else None,
        )
        items = [int(item) for item in result.items[0] if item >= 0]
        scores = result.scores[0].tolist()
        return Found(
            user_id or "anonymous",
            [self._listed(int(item), float("nan")) for item in recent],
            [self._listed(item, score) for item, score in zip(items, scores, strict=False)],
        )

    def _row(self, side: str, external: str) -> int:
        try:
            return self._rows[side][external]
        except KeyError:
            known = ", ".join(list(self._rows[side])[:3])
            raise ValueError(
                f"recommend: {side} '{external}' is not in the corpus (ids look like: {known})"
            ) from None

    def _listed(self, item: int, score: float) -> Listed:
        items = self.corpus.items
        title = items["title"][item] if "title" in items.columns else None
        return Listed(
            items["item_id"][item],
            title or "",
            tuple(int(code) for code in self.sids.items.codes[item]),
            score,
        )


def recommendation_table(found: Found, shown_history: int = 5) -> list[Table]:
    """The history and the list, for the terminal."""
    past = Table(title=f"History of {found.who} (most recent last)", title_justify="left")
    for column in ("item", "SID", "title"):
        past.add_column(column, overflow="fold")
    for item in found.history[-shown_history:]:
        past.add_row(item.item_id, _sid(item), item.title)
    tops = Table(title="Recommended", title_justify="left")
    for column in ("#", "item", "SID", "log p", "title"):
        tops.add_column(column, overflow="fold")
    for rank, item in enumerate(found.items, 1):
        tops.add_row(str(rank), item.item_id, _sid(item), f"{item.score:.3f}", item.title)
    return [past, tops]


def _sid(item: Listed) -> str:
    return "-".join(map(str, item.sid))
