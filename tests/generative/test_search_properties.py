"""The search on drawn catalogues, models, adapters and prompts, against independent ways.

The examples are the same in every run; DASREC_EXAMPLES=10 draws ten times as many.
"""

import os
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from tests.generative.test_search import VOCAB, make_model
from torch import Tensor

from dasrec.generative.decoding.candidate_scores import score_candidates
from dasrec.generative.decoding.exhaustive import score_items
from dasrec.generative.decoding.head import Normalize
from dasrec.generative.decoding.processors import prefix_allowed_tokens_fn
from dasrec.generative.decoding.search import SearchResult, constrained_beam_search
from dasrec.generative.decoding.trie import SidTrie

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)
TOLERANCE = 1e-4
FAMILIES = ("gpt2", "llama", "qwen3", "gemma3")


def examples(count: int) -> settings:
    return settings(
        max_examples=count * int(os.environ.get("DASREC_EXAMPLES", "1")),
        derandomize=True,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        database=None,
    )


class Case(NamedTuple):
    codes: npt.NDArray[np.int64]
    tables: dict[str, Any]
    popularity: npt.NDArray[np.int64]
    ids: Tensor
    mask: Tensor

    def trie_of(self, items: Any) -> SidTrie:
        return SidTrie.from_sids(
            self.codes[items], popularity=self.popularity[items], **self.tables
        )

    @property
    def trie(self) -> SidTrie:
        return self.trie_of(slice(None))


@st.composite
def cases(draw: st.DrawFn, *, distinct: bool = False, short: bool = False, most: int = 60) -> Case:
    """A catalogue over scattered tokens, and a batch of prompts of different lengths."""
    sizes = draw(st.lists(st.integers(1, 7), min_size=1, max_size=4), label="sizes")
    num_items = draw(st.integers(1, most), label="num_items")
    rng = np.random.default_rng(draw(st.integers(0, 2**16), label="seed"))
    if distinct:
        packed = rng.permutation(np.prod(sizes))[:num_items]
        codes = np.stack(np.unravel_index(packed, sizes), axis=1)
    else:
        codes = np.stack([rng.integers(0, size, num_items) for size in sizes], axis=1)
    popularity = rng.integers(0, 3, len(codes))
    tokens = np.split(rng.permutation(np.arange(1, VOCAB))[: sum(sizes) + 1], np.cumsum(sizes))
    tables: dict[str, Any] = {"level_sizes": sizes, "level_token_ids": tokens[:-1]}
    if short and len(sizes) > 1:
        codes[np.arange(len(sizes)) >= rng.integers(1, len(sizes) + 1, (len(codes), 1))] = -1
        tables["end_token_id"] = int(tokens[-1][0])
    lengths = draw(st.lists(st.integers(1, 12), min_size=1, max_size=4), label="lengths")
    real = np.arange(max(lengths))[::-1] < np.array(lengths)[:, None]
    ids = torch.from_numpy(rng.integers(1, VOCAB, real.shape) * real)
    return Case(codes, tables, popularity, ids, torch.from_numpy(real.astype(np.int64)))


@cache
def model_of(family: str, adapter: str = "plain", dtype: torch.dtype = torch.float32) -> Any:
    model = make_model(family)
    if adapter != "plain":
        lora = LoraConfig(
            r=2, target_modules="all-linear", fan_in_fan_out=family == "gpt2", task_type="CAUSAL_LM"
        )
        model = get_peft_model(model, lora)
        torch.manual_seed(1)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data += 0.2 * torch.randn_like(parameter)
    if adapter == "merged":
        model = model.merge_and_unload()
    return model.to(dtype).eval()


def models(*dtypes: torch.dtype) -> st.SearchStrategy[Any]:
    return st.builds(
        model_of,
        st.sampled_from(FAMILIES),
        st.sampled_from(("plain", "lora", "merged")),
        st.sampled_from(dtypes or (torch.float32,)),
    )


def generated(model: Any, case: Case, num_beams: int) -> tuple[Tensor, Tensor]:
    """(B, k) items and scores of transformers' own beam search under the callback.

    k is the number of beams or of items: what is in no SID comes after the items there.
    """
    num_items = min(num_beams, len(case.codes))
    out = model.generate(
        input_ids=case.ids,
        attention_mask=case.mask,
        num_beams=num_beams,
        num_return_sequences=num_items,
        do_sample=False,
        length_penalty=0.0,
        max_new_tokens=case.trie.num_levels,
        return_dict_in_generate=True,
        output_scores=True,
        prefix_allowed_tokens_fn=prefix_allowed_tokens_fn(case.trie, case.ids.shape[1]),
    )
    new = out.sequences[:, case.ids.shape[1] :]
    tables = case.trie.level_token_ids
    token_IL = torch.stack([t[case.codes[:, i]] for i, t in enumerate(tables)], 1)
    same = (new.unsqueeze(1) == token_IL).all(-1)
    assert same.any(1).all()
    return same.long().argmax(1).view(-1, num_items), out.sequences_scores.view(-1, num_items)


def search(model: Any, case: Case, **options: Any) -> SearchResult:
    return constrained_beam_search(model, case.ids, case.mask, case.trie, **options)


def assert_same_ranking(found: SearchResult, items: Tensor, scores: Tensor) -> None:
    """Equal items in equal order; items whose scores cannot be told apart may change places."""
    torch.testing.assert_close(found.scores, scores, atol=TOLERANCE, rtol=0)
    different = (found.items != items).nonzero()
    for b, rank in different.tolist():
        near = (scores[b] - scores[b, rank]).abs() < TOLERANCE
        assert found.items[b, rank] in items[b, near] or rank == items.shape[1] - 1


@examples(50)
@given(case=cases(distinct=True), model=models(), data=st.data())
def test_full_mode_is_generate(case: Case, model: Any, data: st.DataObject) -> None:
    num_beams = data.draw(st.integers(2, 12), label="num_beams")
    items, scores = generated(model, case, num_beams)
    found = search(model, case, num_beams=num_beams, num_items=num_beams, normalize="full")
    assert (found.num_valid == items.shape[1]).all()
    found = found._replace(
        items=found.items[:, : items.shape[1]], scores=found.scores[:, : items.shape[1]]
    )
    assert_same_ranking(found, items, scores)


@examples(20)
@given(case=cases(distinct=True, most=24), model=models(torch.bfloat16))
def test_full_mode_is_generate_in_bfloat16(case: Case, model: Any) -> None:
    """Rank by rank, to the rounding of the model: with as many beams as items.

    Two ways to run a bf16 model (other shapes, other order of keys) round differently, and logits
    of 8 to 16, as here, are 2^-4 apart: a code's log-probability differs by up to about 0.1.
    Sorting is 1-Lipschitz in the largest difference, so the k-th best scores differ by no more,
    while items of nearly equal scores may change places.
    """
    num_items = len(case.codes)
    _, scores = generated(model, case, max(2, num_items))
    found = search(model, case, num_beams=num_items, num_items=num_items, normalize="full")
    tolerance = 0.1 * case.trie.num_levels
    torch.testing.assert_close(found.scores, scores, atol=tolerance, rtol=0)
    every = score_items(model, case.ids, case.mask, case.trie, normalize="full")
    own = every.gather(1, found.items)
    torch.testing.assert_close(found.scores, own, atol=tolerance, rtol=0)
    assert torch.equal(found.items.sort(1).values, torch.arange(num_items).expand_as(found.items))


@examples(60)
@given(
    case=cases(short=True),
    model=models(),
    normalize=st.sampled_from(("level", "full", "trie")),
    mode=st.sampled_from(("tree", "expand")),
)
def test_a_wide_search_is_exhaustive(
    case: Case, model: Any, normalize: Normalize, mode: Any
) -> None:
    every = score_items(model, case.ids, case.mask, case.trie, normalize=normalize)
    num_items = len(case.codes)
    found = search(model, case, num_beams=1, num_items=num_items, normalize=normalize, mode=mode)
    torch.testing.assert_close(
        found.scores, every.sort(dim=1, descending=True).values, atol=TOLERANCE, rtol=0
    )
    own = every.gather(1, found.items)
    torch.testing.assert_close(found.scores, own, atol=TOLERANCE, rtol=0)
    some = found.items[:, ::3]
    again = score_candidates(
        model, case.ids, case.mask, case.trie, some, normalize=normalize, mode=mode
    )
    torch.testing.assert_close(again, every.gather(1, some), atol=TOLERANCE, rtol=0)
    assert torch.equal(found.items.sort(1).values, torch.arange(num_items).expand_as(found.items))
    for row in found.items.tolist():  # of one SID, the more popular first, then the lower index
        for first, second in pairwise(row):
            if (case.codes[first] == case.codes[second]).all():
                rank = [(-case.popularity[i], i) for i in (first, second)]
                assert rank[0] < rank[1]
    if normalize == "trie":
        codes, counts = np.unique(case.codes, axis=0, return_counts=True)
        shares = torch.from_numpy(1 / counts)[
            [int((codes == row).all(1).argmax()) for row in case.codes]
        ]
        total = (every.double().exp() * shares).sum(1)
        torch.testing.assert_close(total, torch.ones_like(total), atol=TOLERANCE, rtol=0)


@examples(40)
@given(case=cases(short=True), model=models(), data=st.data())
def test_a_result_does_not_depend_on_its_batch(case: Case, model: Any, data: st.DataObject) -> None:
    batch = len(case.ids)
    numbers = st.lists(st.integers(1, 9), min_size=batch, max_size=batch)
    options: dict[str, Any] = {
        "num_beams": data.draw(numbers, label="num_beams"),
        "num_items": data.draw(numbers, label="num_items"),
    }
    together = search(model, case, **options)
    for b in range(batch):
        pad = data.draw(st.integers(0, 3), label="pad")
        keep = slice(0 if pad else int((case.mask[b] == 0).sum()), None)
        ids, mask = (
            torch.nn.functional.pad(x[b : b + 1, keep], (pad, 0)) for x in (case.ids, case.mask)
        )
        own: dict[str, Any] = {name: values[b] for name, values in options.items()}
        alone = constrained_beam_search(model, ids, mask, case.trie, **own)
        k = own["num_items"]
        assert alone.items[0].tolist() == together.items[b, :k].tolist()
        assert (together.items[b, k:] == -1).all()
        assert alone.exact_prefix[0] == together.exact_prefix[b]
        real = alone.items[0] >= 0
        torch.testing.assert_close(
            alone.scores[0, real], together.scores[b, :k][real], atol=TOLERANCE, rtol=0
        )


@examples(40)
@given(
    case=cases(short=True),
    model=models(),
    normalize=st.sampled_from(("level", "full", "trie")),
    data=st.data(),
)
def test_a_filter_is_a_rebuilt_trie(
    case: Case, model: Any, normalize: Normalize, data: st.DataObject
) -> None:
    num_items = len(case.codes)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16), label="seed"))
    allowed = rng.random((len(case.ids), num_items)) < data.draw(st.sampled_from((0.1, 0.5, 0.9)))
    excluded = [rng.integers(0, num_items, rng.integers(0, 9)) for _ in case.ids]
    options: dict[str, Any] = {"num_beams": 4, "num_items": 5, "normalize": normalize}
    found = search(model, case, allowed=torch.from_numpy(allowed), excluded=excluded, **options)
    for b, gone in enumerate(excluded):
        own = np.setdiff1d(np.flatnonzero(allowed[b]), gone)
        assert found.num_valid[b] == min(5, len(own))
        if not len(own):
            continue
        alone = constrained_beam_search(
            model, case.ids[b : b + 1], case.mask[b : b + 1], case.trie_of(own), **options
        )
        count = min(5, len(own))
        assert own[alone.items[0, :count].numpy()].tolist() == found.items[b, :count].tolist()
        torch.testing.assert_close(
            alone.scores[0, :count], found.scores[b, :count], atol=TOLERANCE, rtol=0
        )
