"""The comparison on a model that has learnt its catalogue, with the prompts of its test queries.

A trained model's beams sit on popular prefixes, which have more children than random ones, and
its scores lie further apart.

Shape letters: B prompts, T tokens, I items, L levels.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.decoding_measure import race
from benchmarks.decoding_peers import OURS, Problem
from benchmarks.decoding_plan import Plan, Task
from benchmarks.decoding_world import Catalogue

from dasrec.core import load_corpus, load_sids
from dasrec.generative import build_trie, constrained_beam_search, load_generator, query_prompts
from dasrec.generative.retrieve import padded_prompts

BATCH = 8
QUERIES = 200
"""Of which it is said how many lists are proven."""


def trained(plan: Plan, run: Path, generator: Path, sids: str) -> Iterator[Task]:
    """Lists of real prompts."""
    for beams in plan.main_beams:
        yield Task(
            "trained",
            {"run": run.name, "generator": generator.name, "beams": beams, "rounds": plan.rounds},
            partial(_trained, run, generator, sids, beams, plan.rounds),
        )


def _trained(run: Path, path: Path, sids: str, beams: int, rounds: int) -> dict[str, Any]:
    problem = real_problem(run, path, sids, beams, BATCH)
    row = race(problem, ("nested", "reused", "floor", *OURS), rounds)
    many = real_problem(run, path, sids, beams, QUERIES)
    return {
        "items": len(problem.catalogue.token_IL),
        "codes": list(problem.catalogue.trie.level_sizes),
        "vocabulary": problem.model.config.vocab_size,
        "parameters": problem.model.num_parameters(),
        "batch": BATCH,
        "longest_prompt": problem.input_ids.shape[1],
        **row,
        "proven": _proven(many),
    }


def real_problem(run: Path, path: Path, name: str, beams: int, number: int) -> Problem:
    """The generator, its catalogue and evenly chosen test queries, padded on the left."""
    corpus = load_corpus(run / "corpus")
    sids = load_sids(run / "sids" / name, corpus.manifest)
    generator = load_generator(path, sids)
    queries = corpus.queries("test")
    chosen = queries[np.linspace(0, len(queries) - 1, number).astype(np.int64)]
    prompts = query_prompts(corpus, generator.sequence_builder(corpus, sids), chosen)
    tables = [np.array(ids) for ids in generator.vocabulary.item_levels]
    codes_IL = np.asarray(sids.items.codes)
    columns = [table[codes] for table, codes in zip(tables, codes_IL.T, strict=True)]
    catalogue = Catalogue(np.stack(columns, 1), build_trie(corpus, sids, generator.vocabulary))
    generator.model.generation_config.eos_token_id = None  # as many tokens as an item has
    input_ids, mask = padded_prompts(prompts, np.arange(number))
    return Problem(generator.model, catalogue, beams, input_ids, mask)


def _proven(problem: Problem) -> dict[str, float]:
    """How often the first item, or the first ten, are proven to be those of exhaustive scoring."""
    result = constrained_beam_search(
        problem.model,
        problem.input_ids,
        problem.mask,
        problem.catalogue.trie,
        num_beams=problem.beams,
        num_items=10,
    )
    return {
        f"top_{number}": round(float((result.exact_prefix >= number).float().mean()), 3)
        for number in (1, 5, 10)
    }
