"""The README of an exported model: a model card with its figures, its prompt and its limits."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from huggingface_hub import EvalResult, ModelCardData

from dasrec.core import Corpus, SemanticIds
from dasrec.generative.data.prompts import PromptConfig

Metrics = Mapping[str, Mapping[str, float]]
"""{split: {metric: value}} over all queries of the split."""

COUNTS = ("queries", "users", "missing_queries")
HEADLINE = ("recall@", "ndcg@")
SHOWN = (*COUNTS, *HEADLINE, "mrr@", "coverage@")
"""What the card's table shows of a report."""


class Facts(NamedTuple):
    """What the card tells of a model."""

    name: str
    """Of the model."""
    dataset: str
    """Of the data it was trained on."""
    synthetic: bool
    """Whether that data was generated."""
    base_model: str | None
    """Hub name of the language model it was made from, where it has one."""
    architecture: str
    """transformers' name of the model family."""
    license: str | None
    """As the hub writes it; None where nobody said."""
    metrics: Metrics
    """Empty where the model was not evaluated."""
    prompt: PromptConfig
    """The prompt format."""
    grammar: bool
    """Whether sids.ebnf was written."""
    users: bool
    """Whether users.parquet was written."""


def model_card(facts: Facts, corpus: Corpus, sids: SemanticIds) -> str:
    """README.md with the hub's YAML header."""
    parts = [
        f"---\n{_header(facts)}\n---",
        f"# {facts.name}",
        _about(facts, corpus, sids),
        _figures(facts.metrics, facts.synthetic),
        _use(facts, sids),
        _files(facts),
        _limits(facts),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _header(facts: Facts) -> str:
    split = next((name for name in ("test", "valid") if name in facts.metrics), None)
    results = [
        EvalResult(
            task_type="text-generation",
            task_name="Next-item recommendation, full catalogue",
            dataset_type=_slug(facts.dataset),
            dataset_name=facts.dataset,
            dataset_split=split,
            metric_type=name,
            metric_value=round(value, 6),
        )
        for name, value in (facts.metrics[split] if split else {}).items()
        if name.startswith(HEADLINE)
    ]
    data = ModelCardData(
        license=facts.license or "other",
        license_name=None if facts.license else "unknown",
        base_model=facts.base_model,
        datasets=[_slug(facts.dataset)],
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["recommendation", "generative-recommendation", "semantic-ids", "dasrec"],
        model_name=facts.name,
        eval_results=results or None,
    )
    return str(data.to_yaml())


def _slug(name: str) -> str:
    """A name as the hub's header takes it."""
    return re.sub(r"[^a-z0-9_./-]+", "-", name.lower())


def _about(facts: Facts, corpus: Corpus, sids: SemanticIds) -> str:
    origin = f", from `{facts.base_model}`" if facts.base_model else ""
    levels = " x ".join(map(str, sids.items.level_sizes))
    users = (
        " x ".join(map(str, sids.users.level_sizes)) + " for users"
        if sids.users is not None
        else "none for users"
    )
    known = facts.license or "**not stated** by whoever exported it; ask before you use it"
    lines = [
        f"A generative recommender ({facts.architecture}{origin}): it writes the semantic "
        "ID of the item that a user takes next. Made with dasrec (DAS, arXiv 2508.10584).",
        "",
        f"- Data: {facts.dataset}: {corpus.num_users:,} users, {corpus.num_items:,} items, "
        f"{len(corpus.train_rows):,} training interactions (corpus `{corpus.manifest.fingerprint}`,"
        f" raw files `{corpus.manifest.inputs.get('raw', 'unknown')}`)",
        f"- Semantic IDs: version {sids.version}, `{sids.fingerprint}`, {levels} for items, "
        f"{users}",
        f"- License: {known}",
    ]
    return "\n".join(lines)


def _figures(metrics: Metrics, synthetic: bool) -> str:
    if not metrics:
        return "## Figures\n\nThis model was not evaluated."
    splits = [name for name in ("valid", "test") if name in metrics]
    names = [
        name
        for name in dict.fromkeys(name for split in splits for name in metrics[split])
        if name.startswith(SHOWN)
    ]
    lines = [
        "## Figures",
        "",
        "Lists are generated under the catalogue's trie and ranked against all items."
        + " All figures are of SYNTHETIC data: they show that the system works." * synthetic,
        "",
        f"| metric | {' | '.join(splits)} |",
        f"| :-- | {' | '.join('--:' for _ in splits)} |",
    ]
    for name in names:
        cells = [_number(name, metrics[split].get(name)) for split in splits]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _number(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return str(int(value)) if name in COUNTS else f"{value:.4f}"


def _use(facts: Facts, sids: SemanticIds) -> str:
    items = "".join(_tokens("i", codes) for codes in sids.items.codes[:2].tolist())
    example = f", such as `<|das_anonymous|>{items}`"
    if facts.prompt.time or facts.prompt.context:
        example = ""
    return f"""## Use

{_prompt(facts.prompt, sids)}{example}.
The model goes on with the {sids.items.num_levels} codes of the next item.

```
python recommend.py --history ITEM_ID,ITEM_ID --num-items 10
```

needs transformers, torch and safetensors only. A code's probability is taken among the codes of its
level, as in training, and only codes that lead to an existing item are allowed."""


def _prompt(prompt: PromptConfig, sids: SemanticIds) -> str:
    """What a prompt is made of, in words."""
    start = "`<|das_anonymous|>`"
    if prompt.user_sid and sids.users is not None:
        user = _tokens("u", sids.users.codes[0].tolist())
        start += f" for an unknown user, or `<|das_user|>{user}` with the codes of the user"
    if prompt.context:
        start += f"; `<|das_text|>` and the user's {', '.join(prompt.context)} in words"
    gaps = " and one for the time since the last item" if prompt.time else ""
    times = "each after a token for the time since the one before it, " if prompt.time else ""
    return (
        f"A prompt is {start}; then the semantic IDs of the history, {times}oldest first, at most "
        f"{prompt.max_history} items{gaps}"
    )


def _tokens(side: str, codes: list[int]) -> str:
    return "".join(f"<{side}{level}_{code}>" for level, code in enumerate(codes))


def _files(facts: Facts) -> str:
    grammar = (
        "| `sids.ebnf` | the legal semantic IDs as a grammar of token ids, for XGrammar |"
        if facts.grammar
        else "| (no `sids.ebnf`) | too many items for a grammar: use `trie.safetensors` |"
    )
    users = "| `users.parquet` | user_id, semantic ID of every user of the log |\n"
    return f"""## Files

| file | what it is |
|---|---|
| `model.safetensors`, `config.json`, ... | a plain transformers model and tokenizer |
| `sid_vocabulary.json` | every semantic-ID token: side, level, code, vocabulary id |
| `prompt.json` | how prompts are made |
| `items.parquet`, `item_ids.json` | item_id, title, semantic ID, token ids; row i = item i |
{users if facts.users else ""}| `trie.safetensors` | which semantic IDs exist, and whose they are |
{grammar}
| `recommend.py` | transformers only |
| `serve_vllm.py`, `serve_sglang.md` | the same search on a server; not run when this was made |
| `manifest.json` | what this was made from, and the digest of every file |"""


def _limits(facts: Facts) -> str:
    missing = "" if facts.metrics else " It has no figures of its quality."
    return (
        "## Limits\n\n"
        "It knows the items of `items.parquet` only; for new items extend the semantic IDs and "
        "export again. It repeats the habits and the biases of the log that it was trained on, and "
        "its scores are log-probabilities of semantic IDs, not of clicks. Items that share a "
        f"semantic ID have the same score and stand in the order of their popularity.{missing}"
    )
