"""Recommendations for one user or one history: from external ids to titles and back."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.table import Table

from dasrec.cli.generator_steps import split_name, trained_model
from dasrec.cli.lineage import lineage, tasks_of
from dasrec.core import Ragged, load_corpus, load_sids
from dasrec.generative import (
    ItemAttributes,
    build_trie,
    constrained_beam_search,
    load_generator,
)
from dasrec.generative.data.requests import render_intention
from dasrec.generative.decoding.conditions import Where
from dasrec.generative.explain import Explanation, explain_items


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
    explanations: list[Explanation] | None = None
    """One per item, where they were asked for."""
    missing: int = 0
    """Items that were asked for and are not there: no more of the catalogue meet the conditions."""


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
        path = generator_path or trained_model(run_dir, method)
        self.sids = load_sids(run_dir / "sids" / split_name(method)[0], self.corpus.manifest)
        self.generator = load_generator(path, self.sids)
        self.device = self.generator.model.get_input_embeddings().weight.device
        trie = build_trie(self.corpus, self.sids, self.generator.vocabulary)
        self.trie = trie.to(self.device)
        self.attributes = ItemAttributes(self.corpus.items)
        self.builder = self.generator.sequence_builder(self.corpus, self.sids)
        self.max_history = self.generator.prompt.max_history
        self.tasks = tasks_of(lineage(path))
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
        where: Where | None = None,
        exclude: Sequence[str] = (),
        only: Sequence[str] | None = None,
        intention: str | None = None,
        explain: bool = False,
    ) -> Found:
        """The k most probable next items.

        Args:
            user_id: a user of the log; None is an anonymous user.
            history: item ids, oldest first; None takes all that the log has of the user.
            k: items to return.
            num_beams: beams per level.
            exclude_seen: never return an item of the history.
            where: conditions on columns of the items table, see
                `dasrec.generative.decoding.conditions`.
            exclude: item ids never to return.
            only: the only item ids to return; None means all.
            intention: what is wanted, in free text; still only real items are returned.
            explain: say what each item has to do with the history.

        Raises:
            ValueError: an unknown user or item; conditions that do not fit the items table; an
                intention for a model that was not trained to read one.
        """
        if intention is not None and "intention_to_item" not in self.tasks:
            raise ValueError(
                "recommend: this generator was not trained to read intentions; train it with the "
                "task intention_to_item (generator.pretrain.tasks or generator.sft.tasks)"
            )
        user = None if user_id is None else self._row("user", user_id)
        allowed = None if where is None else self.attributes.allowed(self.trie, where)
        excluded = [self._row("item", item_id) for item_id in exclude]
        listed = None if only is None else [self._row("item", item_id) for item_id in only]
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
        asked = prompt
        if intention is not None:
            asked = render_intention(self.builder, self.generator.tokenizer, prompt, [intention])
        ids = torch.from_numpy(asked.tokens).unsqueeze(0).to(self.device)
        result = constrained_beam_search(
            self.generator.model,
            ids,
            torch.ones_like(ids),
            self.trie,
            num_beams=num_beams,
            num_items=min(k, self.corpus.num_items),
            allowed=allowed,
            excluded=[excluded + exclude_seen * seen.tolist()],
            only=[listed],
        )
        items = [int(item) for item in result.items[0] if item >= 0]
        scores = result.scores[0].tolist()
        explanations = None
        if explain and items:
            explanations = explain_items(
                self.generator, self.builder, self.sids, prompt, np.array(items), recent, self.tasks
            )
        return Found(
            user_id or "anonymous",
            [self._listed(int(item), float("nan")) for item in recent],
            [self._listed(item, score) for item, score in zip(items, scores, strict=False)],
            explanations,
            missing=min(k, self.corpus.num_items) - len(items),
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
    short = f" (no more than {len(found.items)} meet the conditions)" * bool(found.missing)
    tops = Table(title=f"Recommended{short}", title_justify="left")
    for column in ("#", "item", "SID", "log p", "title"):
        tops.add_column(column, overflow="fold")
    for rank, item in enumerate(found.items, 1):
        tops.add_row(str(rank), item.item_id, _sid(item), f"{item.score:.3f}", item.title)
    return [past, tops, *_explanation_tables(found)]


def _explanation_tables(found: Found) -> list[Table]:
    """Per item what it shares with the history, and what the model writes, if anything."""
    if found.explanations is None:
        return []
    told = any(each.written_title or each.reason for each in found.explanations)
    table = Table(title="Why", title_justify="left")
    for column in (
        "#",
        "same SID levels",
        "as in the history",
        *["title and reason by the model"] * told,
    ):
        table.add_column(column, overflow="fold")
    for rank, each in enumerate(found.explanations, 1):
        levels, places = each.relatives
        past = [found.history[place] for place in places]
        words = [part for part in (each.written_title, each.reason) if part]
        table.add_row(
            str(rank),
            str(levels),
            "; ".join(item.title or item.item_id for item in past),
            *["; ".join(words)] * told,
        )
    return [table]


def _sid(item: Listed) -> str:
    return "-".join(map(str, item.sid))
