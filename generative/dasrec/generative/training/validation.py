"""Validation by generation: what chooses the best epoch."""

from typing import Any

import numpy as np
from accelerate.utils import gather_object

from dasrec.core import Corpus, SemanticIds, generator
from dasrec.core.processes import processes
from dasrec.eval.ranking_metrics import ranking_metrics
from dasrec.generative.data.config import DataConfig
from dasrec.generative.data.sequences import SequenceBuilder
from dasrec.generative.retrieve import (
    RetrieveConfig,
    build_trie,
    generate_lists,
    query_prompts,
    seen_items,
)

PRIMARY = "ndcg@10"


class Validator:
    """Recall and NDCG of generated lists on a fixed subset of the validation queries."""

    def __init__(
        self, config: DataConfig, corpus: Corpus, sids: SemanticIds, builder: SequenceBuilder
    ) -> None:
        """Draw the queries and render the prompts of this process's share once."""
        queries = corpus.queries("valid")
        rng = generator(0, "validation")  # the same subset for every seed
        chosen = np.sort(rng.permutation(queries)[: config.validation_queries])
        if not len(chosen):
            raise ValueError(
                "validation_queries: the corpus has no validation query to choose an epoch on; "
                "set it to 0 to keep the last epoch"
            )
        state = processes()
        mine = chosen[state.process_index :: state.num_processes]
        self.targets = corpus.item_idx[mine]
        self.prompts = query_prompts(corpus, builder, mine)
        self.excluded = seen_items(RetrieveConfig(exclude_seen="as_in_training"), corpus, mine)
        self.trie = build_trie(corpus, sids, builder.vocabulary)
        width = min(20, corpus.num_items)
        self.retrieve = RetrieveConfig(num_beams=config.validation_beams, num_items=width)

    def __call__(self, model: Any) -> dict[str, float]:
        """Metrics over the queries of all processes of `model`, left in the mode it came in."""
        was_training = model.training
        model.eval()
        items, _ = generate_lists(
            model, self.trie, self.prompts, self.retrieve, excluded=self.excluded
        )
        model.train(was_training)
        parts = [(items, self.targets)]
        if processes().num_processes > 1:
            parts = gather_object(parts)
        lists, targets = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        found = ranking_metrics(lists, targets, (10,))
        return {PRIMARY: found[PRIMARY], "recall@10": found["recall@10"]}
