"""Stage `export`: a trained generator as a folder for transformers, vLLM and SGLang."""

import logging
import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from dasrec.core import Corpus, Manifest, SemanticIds, StageConfig, check_free, write_artifact
from dasrec.generative.decoding.trie import SidTrie
from dasrec.generative.export.card import Facts, Metrics, model_card
from dasrec.generative.export.grammar import MAX_SIDS, sid_grammar
from dasrec.generative.export.merge import check_saved, merge_adapter
from dasrec.generative.export.tables import write_items, write_users, write_vocabulary
from dasrec.generative.model.load import Generator, load_generator
from dasrec.generative.retrieve import build_trie, query_prompts

log = logging.getLogger(__name__)

STANDALONE = Path(__file__).parent / "standalone"
CHECKED_PROMPTS = 8


class ExportConfig(StageConfig):
    """What an export holds and says."""

    name: str = "generator"
    """Name of the model in its card."""

    dataset: str = "unnamed"
    """Name of the data in the card."""

    synthetic: bool = False
    """Whether the data was generated; the card then says so."""

    base_model: str | None = None
    """Hub name of the language model that it was made from, for the card."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the weights."""

    license: str | None = None
    """License of the model as the hub writes it (apache-2.0, ...)."""

    users: bool = False
    """Write the table of users, which serving needs to start prompts with a user's SID. User ids
    may be personal data."""


def export_generator(
    config: ExportConfig,
    generator_path: Path,
    corpus: Corpus,
    sids: SemanticIds,
    out: Path,
    *,
    metrics: Metrics | None = None,
    replace: bool = False,
) -> Manifest:
    """Merge the adapter, if any, and write the model with all that serving needs.

    Args:
        config: names, license, type of the weights.
        generator_path: a generator or base_model.
        corpus: the catalogue that is served; may be later than the one of the training.
        sids: its semantic IDs: those of the training or a later version of them.
        out: directory of the new "export" artifact.
        metrics: {split: {metric: value}} for the card.
        replace: overwrite `out`.

    Returns:
        The manifest; the README in `out` lists the files.

    Raises:
        FileExistsError: `out` is taken.
        FileNotFoundError: a piece of the generator is missing.
        ValueError: pieces that do not belong together, or a merge that changed the model.
    """
    check_free(out, replace)
    generator = load_generator(generator_path, sids, full_precision=True)
    trie = build_trie(corpus, sids, generator.vocabulary)
    model, difference = merge_adapter(generator.model, _prompts(generator, corpus, sids))
    model.to(getattr(torch, config.dtype))
    grammar = trie.num_leaves <= MAX_SIDS
    facts = Facts(
        name=config.name,
        dataset=config.dataset,
        synthetic=config.synthetic,
        base_model=config.base_model,
        architecture=model.config.model_type,
        license=config.license,
        metrics=metrics or {},
        prompt=generator.prompt,
        grammar=grammar,
        users=config.users,
    )

    def payload(scratch: Path) -> None:
        model.save_pretrained(scratch)
        check_saved(scratch, model)
        _write_lookups(scratch, config, generator, corpus, sids, trie)
        (scratch / "README.md").write_text(model_card(facts, corpus, sids))

    return write_artifact(
        out,
        "export",
        config.as_json(),
        {
            "corpus": corpus.manifest,
            "semantic_ids": sids.manifest,
            "generator": generator.manifest,
        },
        payload,
        metrics={"merge_difference": difference, "grammar": grammar},
        replace=replace,
    )


def _write_lookups(
    scratch: Path,
    config: ExportConfig,
    generator: Generator,
    corpus: Corpus,
    sids: SemanticIds,
    trie: SidTrie,
) -> None:
    """Write everything but the weights and the card."""
    vocabulary, tokenizer = generator.vocabulary, generator.tokenizer
    tokenizer.save_pretrained(scratch)
    write_vocabulary(scratch, vocabulary, sids, tokenizer)
    generator.prompt.save(scratch)
    write_items(scratch, vocabulary, corpus, sids, tokenizer)
    if config.users:
        write_users(scratch, vocabulary, corpus, sids, tokenizer, generator.prompt)
    trie.save(scratch / "trie.safetensors")
    if trie.num_leaves <= MAX_SIDS:
        (scratch / "sids.ebnf").write_text(sid_grammar(trie))
    for path in sorted(STANDALONE.iterdir()):
        if path.suffix in (".py", ".md"):
            shutil.copyfile(path, scratch / path.name)


def _prompts(generator: Generator, corpus: Corpus, sids: SemanticIds) -> list[torch.Tensor]:
    """Prompts of the log, to compare logits on."""
    queries = np.concatenate([corpus.queries(split) for split in ("train", "valid", "test")])
    chosen = np.sort(queries)[:: max(1, len(queries) // CHECKED_PROMPTS)][:CHECKED_PROMPTS]
    builder = generator.sequence_builder(corpus, sids)
    rendered = query_prompts(corpus, builder, chosen)
    return [
        torch.from_numpy(rendered.tokens[low:high])
        for low, high in zip(rendered.starts[:-1], rendered.starts[1:], strict=True)
    ]
