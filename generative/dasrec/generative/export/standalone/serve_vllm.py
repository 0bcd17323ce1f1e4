"""Next items from vLLM: one beam search over semantic IDs, all beams of a level in one call.

Needs vllm (written for its documented interface of version 0.20; not run against it here):

python serve_vllm.py --history ITEM_ID,ITEM_ID --num-items 10

Every level asks for the log-probabilities of all its codes, taken among them (`allowed_token_ids`
with processed log-probabilities), which is how the model was trained; codes that lead to no item
are dropped. vLLM's prefix cache keeps the prompt, so that a level costs one token per beam.
"""

import argparse
import json
import sys
from typing import Any

from recommend import HERE, Catalogue, prompt_tokens  # type: ignore[import-not-found]
from vllm import LLM, SamplingParams  # type: ignore[import-not-found]

Beam = tuple[tuple[int, ...], float]


def search(llm: Any, catalogue: Any, prompt: list[int], num_beams: int) -> list[Beam]:
    """The most probable semantic IDs and their log-probabilities, best first."""
    beams: list[Beam] = [((), 0.0)]
    for codes in catalogue.level_tokens:
        params = SamplingParams(
            max_tokens=1,
            temperature=1.0,
            allowed_token_ids=codes.tolist(),
            logprobs=len(codes),
            detokenize=False,
        )
        prompts = [{"prompt_token_ids": [*prompt, *sid]} for sid, _ in beams]
        outputs = llm.generate(prompts, params, use_tqdm=False)
        longer = []
        for (sid, score), output in zip(beams, outputs, strict=True):
            log_p = output.outputs[0].logprobs[0]
            for token in catalogue.allowed_tokens(list(sid)):
                longer.append(((*sid, token), score + log_p[token].logprob))
        beams = sorted(longer, key=lambda beam: -beam[1])[:num_beams]
    return beams


def load(catalogue: Any) -> Any:
    """The model in vLLM, with as many log-probabilities per token as the largest level has."""
    return LLM(
        model=str(HERE),
        max_logprobs=max(map(len, catalogue.level_tokens)),
        logprobs_mode="processed_logprobs",
        enable_prefix_caching=True,
    )


def main() -> None:
    """Print one JSON line per item."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--history", default="", help="item ids, oldest first, comma-separated")
    parser.add_argument("--num-items", type=int, default=10)
    parser.add_argument("--num-beams", type=int, default=50)
    given = parser.parse_args()
    catalogue = Catalogue()
    prompt = prompt_tokens(catalogue, [part for part in given.history.split(",") if part])
    beams = search(load(catalogue), catalogue, prompt, max(given.num_beams, given.num_items))
    items = [(item, score) for sid, score in beams for item in catalogue.items_of[sid]]
    for item, score in items[: given.num_items]:
        line = {"item_id": catalogue.item_ids[item], "log_p": score}
        sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
