"""Next items for a history of item ids; needs transformers, torch and safetensors only.

python recommend.py --history ITEM_ID,ITEM_ID --num-items 10
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LogitsProcessor,
    LogitsProcessorList,
)

HERE = Path(__file__).resolve().parent


class Catalogue:
    """The items and their semantic IDs, read from trie.safetensors.

    I items, L levels, F distinct semantic IDs.
    """

    def __init__(self, folder: Path = HERE) -> None:
        with safe_open(folder / "trie.safetensors", "pt") as file:
            levels = range(len(json.loads(file.metadata()["trie"])["level_sizes"]))
            self.level_tokens = [file.get_tensor(f"level_token_ids.{n}") for n in levels]
            codes = [file.get_tensor(f"tok.{n}").long() for n in levels]
            child_start = [file.get_tensor(f"child_start.{n}").long() for n in levels[:-1]]
            order = file.get_tensor("item_of_place").long()
            start = torch.arange(len(order) + 1)  # unless items share semantic IDs
            if "item_start" in file.keys():
                start = file.get_tensor("item_start").long()
        node = torch.arange(len(start) - 1)  # from every leaf up to the root
        columns = []
        for level in reversed(levels):
            columns.append(self.level_tokens[level][codes[level][node]])
            if level:
                node = torch.searchsorted(child_start[level - 1], node, right=True) - 1
        leaf_tokens_FL = torch.stack(columns[::-1], dim=1)
        self.item_tokens_IL = torch.empty(len(order), len(levels), dtype=torch.long)
        self.item_tokens_IL[order] = leaf_tokens_FL.repeat_interleave(start.diff(), dim=0)
        self.item_ids: list[str] = json.loads((folder / "item_ids.json").read_text())
        self.row = {item_id: row for row, item_id in enumerate(self.item_ids)}
        items, ends = order.tolist(), start.tolist()
        self.items_of: dict[tuple[int, ...], list[int]] = {}
        self.allowed: dict[tuple[int, ...], list[int]] = {}
        for leaf, sid in enumerate(map(tuple, leaf_tokens_FL.tolist())):
            self.items_of[sid] = items[ends[leaf] : ends[leaf + 1]]
            for level in levels:
                following = self.allowed.setdefault(sid[:level], [])
                if not following or following[-1] != sid[level]:  # leaves are sorted
                    following.append(sid[level])

    def allowed_tokens(self, sid: list[int]) -> list[int]:
        """Tokens that continue the start of a semantic ID towards an existing item.

        `lambda _, ids: catalogue.allowed_tokens(ids[prompt_length:].tolist())` is what `generate`
        takes as prefix_allowed_tokens_fn.
        """
        return self.allowed.get(tuple(sid), [])


def prompt_tokens(
    catalogue: Catalogue,
    history: list[str],
    *,
    user_sid: list[int] | None = None,
    context: str | None = None,
    times: list[int] | None = None,
    now: int | None = None,
    folder: Path = HERE,
) -> list[int]:
    """The prompt: who asks, then the semantic IDs of the history, as prompt.json says.

    Args:
        catalogue: the items.
        history: item ids, oldest first.
        user_sid: codes of the user's semantic ID; None is an unknown user.
        context: what to tell of the user in words, for a model that was trained with such words.
        times: seconds of each item of the history, for a model that was trained with times.
        now: seconds of the request.
        folder: where sid_vocabulary.json and prompt.json are.
    """
    vocabulary = json.loads((folder / "sid_vocabulary.json").read_text())
    form = json.loads((folder / "prompt.json").read_text())
    control = {name: entry["id"] for name, entry in vocabulary["control"].items()}
    if user_sid is None or not form["user_sid"]:
        tokens = [control["<|anonymous|>"]]
    else:
        names = [f"<u{level}_{code}>" for level, code in enumerate(user_sid)]
        tokens = [control["<|user|>"], *(vocabulary["tokens"][name]["id"] for name in names)]
    if context and form["context"]:
        words = AutoTokenizer.from_pretrained(folder)(context, add_special_tokens=False)
        tokens += [control["<|text|>"], *words["input_ids"][: form["context_tokens"]]]
    before = None
    moments: list[int | None] = [None for _ in history] if times is None else [*times]
    events = list(zip(history, moments, strict=True))
    for item_id, time in events[-form["max_history"] :]:
        if item_id not in catalogue.row:
            raise ValueError(f"item '{item_id}' is not in the catalogue")
        tokens += gap_token(vocabulary, before, time) if form["time"] else []
        tokens += catalogue.item_tokens_IL[catalogue.row[item_id]].tolist()
        before = time
    return tokens + (gap_token(vocabulary, before, now) if form["time"] else [])


def gap_token(vocabulary: dict[str, Any], before: int | None, after: int | None) -> list[int]:
    """The token of a gap: floor(log2(1 + whole minutes)); the last one where it is unknown."""
    ids: list[int] = [entry["id"] for entry in vocabulary["time"]]
    if before is None or after is None:
        return ids[-1:]
    bucket = (1 + max(after - before, 0) // 60).bit_length() - 1
    return [ids[min(bucket, len(ids) - 2)]]


class SidConstraint(LogitsProcessor):  # type: ignore[misc]  # transformers is untyped
    """Existing items only, each code's probability taken among the codes of its level.

    That is how the model was trained. prefix_allowed_tokens_fn alone would rank by probabilities
    over the whole vocabulary, on which the training put no condition.
    """

    def __init__(self, catalogue: Catalogue, prompt_length: int) -> None:
        self.catalogue, self.prompt_length = catalogue, prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Log-probabilities of the next code, -inf where no item follows."""
        level = input_ids.shape[1] - self.prompt_length
        codes = self.catalogue.level_tokens[level].to(scores.device)
        result = torch.full_like(scores, float("-inf"))
        log_p = scores[:, codes].log_softmax(-1)
        for row, sid in enumerate(input_ids[:, self.prompt_length :].tolist()):
            allowed = torch.tensor(self.catalogue.allowed_tokens(sid), device=codes.device)
            legal = torch.isin(codes, allowed)
            result[row, codes[legal]] = log_p[row, legal]
        return result


@torch.no_grad()
def recommend(
    model: Any, catalogue: Catalogue, prompt: list[int], num_items: int, num_beams: int
) -> list[tuple[str, float]]:
    """The most probable next items and the log-probabilities of their semantic IDs."""
    ids = torch.tensor([prompt], device=model.device)
    beams = max(num_beams, num_items)
    found = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=len(catalogue.level_tokens),
        num_beams=beams,
        num_return_sequences=beams,
        length_penalty=0.0,
        do_sample=False,
        logits_processor=LogitsProcessorList([SidConstraint(catalogue, len(prompt))]),
        return_dict_in_generate=True,
        output_scores=True,
    )
    ranked: dict[tuple[int, ...], float] = {}
    scores = found.sequences_scores.tolist()
    for sid, score in zip(found.sequences[:, len(prompt) :].tolist(), scores, strict=True):
        if tuple(sid) in catalogue.items_of and score > -1e8:  # less marks a beam without an item
            ranked.setdefault(tuple(sid), score)
    return [
        (catalogue.item_ids[item], score)
        for sid, score in ranked.items()
        for item in catalogue.items_of[sid]
    ][:num_items]


def main() -> None:
    """Print one JSON line per item."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--history", default="", help="item ids, oldest first, comma-separated")
    parser.add_argument("--user-sid", help="codes of the user's semantic ID, as in 3-1")
    parser.add_argument("--num-items", type=int, default=10)
    parser.add_argument("--num-beams", type=int, default=50)
    given = parser.parse_args()
    catalogue = Catalogue()
    model = AutoModelForCausalLM.from_pretrained(HERE, dtype="auto").eval()
    user_sid = [int(code) for code in given.user_sid.split("-")] if given.user_sid else None
    history = [item_id for item_id in given.history.split(",") if item_id]
    prompt = prompt_tokens(catalogue, history, user_sid=user_sid)
    for item_id, score in recommend(model, catalogue, prompt, given.num_items, given.num_beams):
        sys.stdout.write(json.dumps({"item_id": item_id, "log_p": score}) + "\n")


if __name__ == "__main__":
    main()
