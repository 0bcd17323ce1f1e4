from abc import ABC, abstractmethod
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from tests.generative.test_candidate_scores import END, TOKENS, colliding_codes, short_codes
from tests.generative.test_search import (
    NORMALIZERS,
    SIZES,
    VOCAB,
    make_model,
    make_prompts,
    make_trie,
)
from torch import Tensor

from dasrec.generative.decoding.allowed import Allowed
from dasrec.generative.decoding.candidate_scores import score_candidates
from dasrec.generative.decoding.catalogue import Catalogue
from dasrec.generative.decoding.constraint import SidConstraint
from dasrec.generative.decoding.custom_generate import sid_generate
from dasrec.generative.decoding.diverse import diverse_beam_search
from dasrec.generative.decoding.engines import (
    SglangConstraint,
    VllmBatchConstraint,
    VllmRequestConstraint,
    check_request,
)
from dasrec.generative.decoding.exhaustive import score_items
from dasrec.generative.decoding.index import SidIndex
from dasrec.generative.decoding.processors import SidTrieLogitsProcessor, prefix_allowed_tokens_fn
from dasrec.generative.decoding.sampling import sample_items
from dasrec.generative.decoding.search import constrained_beam_search
from dasrec.generative.decoding.trie import SidTrie

FILL = next(t for t in range(1, VOCAB) if t not in {*np.concatenate(TOKENS).tolist(), END})


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.manual_seed(0)


def spelled(codes: Any, fill: int | None = None, end: int | None = None) -> list[tuple[int, ...]]:
    """Each item's tokens, filled up to the levels."""
    sids = []
    for row in codes:
        own = [int(TOKENS[i][c]) for i, c in enumerate(row) if c >= 0]
        if end is not None and len(own) < len(row):
            own.append(end)
        sids.append((*own, *[fill] * (len(row) - len(own))))
    return sids  # type: ignore[return-value]


def next_tokens(sids: list[tuple[int, ...]], before: tuple[int, ...]) -> set[int]:
    return {sid[len(before)] for sid in sids if sid[: len(before)] == before}


@pytest.mark.parametrize(("end", "fill"), [(None, FILL), (END, FILL), (END, END)])
def test_every_prefix_allows_what_some_item_has(end: int | None, fill: int) -> None:
    codes = short_codes(prefix_free=end is None)
    trie = SidTrie.from_sids(codes, SIZES, TOKENS, end_token_id=end)
    sids, prompt = spelled(codes, fill, end), torch.tensor([0, 3, 5])
    callback = prefix_allowed_tokens_fn(trie, 3, after_end=fill)
    for length in range(3):
        prefixes = sorted({sid[:length] for sid in sids})
        rows = torch.tensor(prefixes, dtype=torch.int64).view(len(prefixes), length)
        rows = torch.cat([prompt.repeat(len(prefixes), 1), rows], 1)
        scores = torch.randn(len(rows), VOCAB)
        masked = SidTrieLogitsProcessor(trie, 3, after_end=fill)(rows, scores)
        for row, score, kept, prefix in zip(rows, scores, masked, prefixes, strict=True):
            expected = next_tokens(sids, prefix)
            assert set((kept > -torch.inf).nonzero().flatten().tolist()) == expected
            assert sorted(callback(0, row)) == sorted(expected)
            if expected == {fill} and (fill != end or end in prefix):
                assert float(kept[fill]) == 0.0  # no cost
            else:
                own = list(expected - ({fill} if fill != end else set()))
                torch.testing.assert_close(kept[own], score[own])
    with pytest.raises(ValueError, match="after_end: the catalogue has SIDs of different length"):
        SidTrieLogitsProcessor(trie, 3)


def test_a_row_outside_the_trie_takes_codes_of_its_level() -> None:
    codes = colliding_codes(4)
    trie = SidTrie.from_sids(codes, SIZES, TOKENS)
    wrong = next(t for t in TOKENS[0].tolist() if t not in {sid[0] for sid in spelled(codes)})
    rows = torch.tensor([[wrong], [spelled(codes)[0][0]], [FILL]])
    found = SidConstraint(trie).allowed(rows)
    sets = [set(found.token_C[found.row_C == i].tolist()) for i in range(3)]
    level = set(TOKENS[1].tolist())
    assert sets == [level, next_tokens(spelled(codes), spelled(codes)[0][:1]), level]
    with pytest.raises(ValueError, match="max_new_tokens=3"):
        SidConstraint(trie).allowed(torch.ones(1, 3, dtype=torch.int64))


def test_predicates_reach_other_decoders() -> None:
    codes = colliding_codes()
    trie = SidTrie.from_sids(codes, SIZES, TOKENS)
    keep = torch.rand(len(codes)) < 0.2
    constraint = SidConstraint(trie, allowed=Allowed.of(trie, keep))
    sids = spelled(codes[keep.numpy()])
    for length in range(3):
        for prefix in {sid[:length] for sid in sids}:
            row = torch.tensor([prefix], dtype=torch.int64)
            assert set(constraint.allowed(row).token_C.tolist()) == next_tokens(sids, prefix)
    with pytest.raises(ValueError, match="allowed: no item is left"):
        SidConstraint(trie, allowed=Allowed.of(trie, torch.zeros_like(keep)))


@pytest.mark.parametrize("end", [None, END])
def test_samples_of_generate_are_items(end: int | None) -> None:
    codes = short_codes(prefix_free=end is None)
    trie = SidTrie.from_sids(codes, SIZES, TOKENS, end_token_id=end)
    model, (ids, mask) = make_model("qwen3"), make_prompts()
    processor = SidTrieLogitsProcessor(trie, ids.shape[1], after_end=FILL)
    options = {"max_new_tokens": 3, "do_sample": True, "num_return_sequences": 40, "top_k": 0}
    options["logits_processor"] = transformers.LogitsProcessorList([processor])
    new = model.generate(ids, attention_mask=mask, **options)[:, ids.shape[1] :]
    found = {tuple(row) for row in new.tolist()}
    assert found <= set(spelled(codes, FILL, end))
    assert len(found) > 10


def test_short_sids_end_like_sentences() -> None:
    """With the end token as `generate`'s own, its beam search ranks SIDs of any length as ours."""
    codes = np.unique(short_codes(prefix_free=False), axis=0)
    trie = SidTrie.from_sids(codes, SIZES, TOKENS, end_token_id=END)
    model, (ids, mask) = make_model("llama"), make_prompts()
    processor = SidTrieLogitsProcessor(trie, ids.shape[1], after_end=FILL)
    k = len(codes)
    theirs = model.generate(
        ids,
        attention_mask=mask,
        num_beams=k,
        num_return_sequences=k,
        length_penalty=0.0,
        max_new_tokens=3,
        eos_token_id=END,
        pad_token_id=FILL,
        logits_processor=transformers.LogitsProcessorList([processor]),
        return_dict_in_generate=True,
        output_scores=True,
    )
    found = constrained_beam_search(
        model, ids, mask, trie, num_beams=k, num_items=k, normalize="full"
    )
    sids = spelled(codes, FILL, END)
    new = [tuple(row) for row in theirs.sequences[:, ids.shape[1] :].tolist()]
    assert new == [sids[item] for item in found.items.flatten().tolist()]
    torch.testing.assert_close(found.scores.flatten(), theirs.sequences_scores, atol=1e-4, rtol=0)


class TestSidGenerate:
    def both(self, **options: Any) -> tuple[Any, Any, SidTrie, Tensor]:
        model, (trie, _), (ids, mask) = make_model("llama"), make_trie(), make_prompts()
        ours = model.generate(
            ids,
            attention_mask=mask,
            custom_generate=sid_generate,
            trie=trie,
            max_new_tokens=3,
            do_sample=False,
            return_dict_in_generate=True,
            **options,
        )
        found = constrained_beam_search(
            model,
            ids,
            mask,
            trie,
            num_beams=options.get("num_beams", 1),
            num_items=options.get("num_return_sequences", 1),
            normalize=options.get("normalize", "level"),
        )
        return ours, found, trie, ids

    @pytest.mark.parametrize(
        "options",
        [{}, {"num_beams": 8}, {"num_beams": 8, "num_return_sequences": 5, "normalize": "full"}],
    )
    def test_is_the_search(self, options: dict[str, Any]) -> None:
        ours, found, trie, ids = self.both(**options)
        assert torch.equal(ours.items, found.items.flatten())
        torch.testing.assert_close(ours.sequences_scores, found.scores.flatten())
        k = options.get("num_return_sequences", 1)
        assert torch.equal(ours.sequences[:, :-3], ids.repeat_interleave(k, 0))
        tables, codes = trie.level_token_ids, make_trie()[1]
        tokens = torch.stack([t[codes[:, i]] for i, t in enumerate(tables)], 1)
        assert torch.equal(ours.sequences[:, -3:], tokens[ours.items])

    def test_full_mode_is_generate_itself(self) -> None:
        model, (trie, _), (ids, mask) = make_model("qwen3"), make_trie(), make_prompts()
        options = {"num_beams": 6, "num_return_sequences": 4, "max_new_tokens": 3}
        processor = SidTrieLogitsProcessor(trie, ids.shape[1])
        theirs = model.generate(
            ids,
            attention_mask=mask,
            length_penalty=0.0,
            logits_processor=transformers.LogitsProcessorList([processor]),
            **options,
        )
        ours = model.generate(
            ids,
            attention_mask=mask,
            custom_generate=sid_generate,
            trie=trie,
            normalize="full",
            **options,
        )
        assert torch.equal(ours, theirs)

    @pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
    def test_adapters_are_used(self) -> None:
        base, (trie, _), (ids, mask) = make_model("llama"), make_trie(), make_prompts()
        plain = constrained_beam_search(base, ids, mask, trie, num_beams=9, num_items=9)
        model = get_peft_model(base, LoraConfig(r=2, target_modules="all-linear"))
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data += 0.3 * torch.randn_like(parameter)
        model.eval()
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            custom_generate=sid_generate,
            trie=trie,
            num_beams=9,
            num_return_sequences=9,
            max_new_tokens=3,
            return_dict_in_generate=True,
        )
        found = constrained_beam_search(model, ids, mask, trie, num_beams=9, num_items=9)
        assert torch.equal(out.items, found.items.flatten())
        assert not torch.equal(found.items, plain.items)

    def test_constraints_and_missing_items(self) -> None:
        model, (trie, _), (ids, mask) = make_model("gpt2"), make_trie(5), make_prompts()
        out = model.generate(
            ids,
            attention_mask=mask,
            custom_generate=sid_generate,
            trie=trie,
            excluded=[[0], [1, 2], []],
            num_beams=6,
            num_return_sequences=6,
            max_new_tokens=3,
            return_dict_in_generate=True,
        )
        items = out.items.view(3, 6)
        assert (items >= 0).sum(1).tolist() == [4, 3, 5]
        assert 0 not in items[0]
        assert (out.sequences[out.items < 0, -3:] == 0).all()

    def test_mistakes_are_told(self) -> None:
        model, (trie, _), (ids, mask) = make_model("gpt2"), make_trie(), make_prompts()
        processors = transformers.LogitsProcessorList([SidTrieLogitsProcessor(trie, 9)])
        for options, message in (
            ({"do_sample": True}, "do_sample=False"),
            ({"logits_processor": processors}, "got SidTrieLogitsProcessor; drop them"),
            ({"max_new_tokens": 2}, "give max_new_tokens=3"),
        ):
            given: dict[str, Any] = {"max_new_tokens": 3, "attention_mask": mask} | options
            with pytest.raises(ValueError, match=message):
                model.generate(ids, custom_generate=sid_generate, trie=trie, **given)


@pytest.fixture
def saved(tmp_path: Any) -> tuple[str, list[tuple[int, ...]]]:
    codes = colliding_codes()
    SidTrie.from_sids(codes, SIZES, TOKENS).save(tmp_path / "trie.safetensors")
    return str(tmp_path / "trie.safetensors"), spelled(codes)


def kept(logits: Tensor) -> set[int]:
    return set((logits > -torch.inf).nonzero().flatten().tolist())


def test_vllm_request_processor(saved: tuple[str, list[tuple[int, ...]]]) -> None:
    """As `AdapterLogitsProcessor.apply` calls it: one request's outputs so far and its logits."""
    path, sids = saved
    assert VllmRequestConstraint.of(SimpleNamespace(extra_args=None)) is None
    assert VllmRequestConstraint.of(SimpleNamespace(extra_args={"other": 1})) is None
    process = VllmRequestConstraint.of(SimpleNamespace(extra_args={"sid_trie": path}))
    assert process is not None
    output: list[int] = []  # the engine keeps one list and appends to it
    for _ in range(3):
        logits = torch.randn(VOCAB)
        masked = process(output, logits.clone())
        assert kept(masked) == next_tokens(sids, tuple(output))
        output.append(int(masked.argmax()))
    assert tuple(output) in sids
    assert kept(process(output, torch.randn(VOCAB))) == set(range(VOCAB))


class VllmBase(ABC):
    """What `vllm.v1.worker.gpu.sample.logits_processor.LogitsProcessor` asks of a subclass."""

    @abstractmethod
    def __init__(self, vllm_config: Any, req_states: Any) -> None: ...

    @abstractmethod
    def add_request(self, req_idx: int, sampling_params: Any) -> bool: ...

    @abstractmethod
    def apply(self, logits: Tensor, ctx: Any) -> Tensor: ...


class VllmSids(VllmBatchConstraint, VllmBase):
    pass


class SglangBase(ABC):
    """What `sglang.srt.sampling.custom_logit_processor.CustomLogitProcessor` asks and gives."""

    @abstractmethod
    def __call__(self, logits: Tensor, custom_param_list: Any = None) -> Tensor: ...

    @classmethod
    def to_str(cls) -> str:
        return str(pytest.importorskip("dill").dumps(cls).hex())


class SglangSids(SglangConstraint, SglangBase):
    pass


def test_a_request_without_its_trie_is_refused() -> None:
    VllmSids.validate_params(SimpleNamespace(extra_args=None))
    with pytest.raises(ValueError, match="sid_trie: no file nowhere; give the path"):
        VllmSids.validate_params(SimpleNamespace(extra_args={"sid_trie": "nowhere"}))


@pytest.mark.parametrize("end", [None, END])
def test_short_sids_in_engines(tmp_path: Any, end: int | None) -> None:
    codes = short_codes(prefix_free=end is None)
    path, text = str(tmp_path / "trie"), str(tmp_path / "text")
    SidTrie.from_sids(codes, SIZES, TOKENS, end_token_id=end).save(path)
    (tmp_path / "text").write_text("no trie")
    with pytest.raises(ValueError, match="after_end: the catalogue has SIDs of different length"):
        check_request({"sid_trie": path})
    with pytest.raises(ValueError, match="not a trie"):
        check_request({"sid_trie": text})
    request: dict[str, Any] = {"sid_trie": path, "sid_after_end": FILL}
    check_request(request)
    sids = spelled(codes, FILL, end)
    process = VllmRequestConstraint.of(SimpleNamespace(extra_args=request))
    assert process is not None
    outputs = sorted({sid[:length] for sid in sids for length in range(3)})
    params = [{**request, "__req__": SimpleNamespace(output_ids=o)} for o in outputs]
    masked = SglangConstraint()(torch.randn(len(outputs), VOCAB), params)
    for output, row in zip(outputs, masked, strict=True):
        assert kept(row) == next_tokens(sids, output)
        assert kept(process(list(output), torch.randn(VOCAB))) == next_tokens(sids, output)


def test_vllm_batch_processor(saved: tuple[str, list[tuple[int, ...]]]) -> None:
    """Slots of different prompts and depths, rows in another order, two requests not ours."""
    path, sids = saved
    prompts = [[9, 9], [8], [7, 7, 7], [5], [4, 4]]
    outputs = [[], list(sids[3][:1]), [1, 2], list(sids[5][:2]), list(sids[7])]
    tokens = torch.zeros(5, 9, dtype=torch.int32)
    for slot, (prompt, output) in enumerate(zip(prompts, outputs, strict=True)):
        both = torch.tensor(prompt + output, dtype=torch.int32)
        tokens[slot, : len(both)] = both
    lengths = [len(p) for p in prompts]
    totals = [len(p) + len(o) for p, o in zip(prompts, outputs, strict=True)]
    states = SimpleNamespace(
        max_num_reqs=5,
        all_token_ids=SimpleNamespace(gpu=tokens),
        prompt_len=SimpleNamespace(gpu=torch.tensor(lengths, dtype=torch.int32)),
        total_len=SimpleNamespace(gpu=torch.tensor(totals, dtype=torch.int32)),
    )
    processor = VllmSids(None, states)
    assert processor.add_request(2, SimpleNamespace(extra_args={"sid_trie": path}))
    for slot in range(5):  # slot 2 was another request's before
        params = SimpleNamespace(extra_args=None if slot == 2 else {"sid_trie": path})
        assert processor.add_request(slot, params) is (slot != 2)
    rows = [3, 2, 0, 1, 4]
    context = SimpleNamespace(expanded_idx_mapping=torch.tensor(rows, dtype=torch.int32))
    masked = processor.apply(torch.randn(5, VOCAB), context)
    every = set(range(VOCAB))
    for slot, logits in zip(rows, masked, strict=True):
        free = slot in (2, 4)
        assert kept(logits) == (every if free else next_tokens(sids, tuple(outputs[slot])))


def test_sglang_processor(saved: tuple[str, list[tuple[int, ...]]]) -> None:
    """As the sampler calls it: the batch's logits and one dict per row, `__req__` among them."""
    path, sids = saved
    outputs = [list(sids[0][:2]), [], list(sids[1]), list(sids[2][:1])]
    params: list[Any] = [
        {"sid_trie": path, "__req__": SimpleNamespace(output_ids=output)} for output in outputs
    ]
    logits = torch.randn(5, VOCAB)
    server = pytest.importorskip("dill").loads(bytes.fromhex(SglangSids.to_str()))()
    masked = server(logits, [*params, {"__req__": None}])
    for output, row in zip(outputs, masked, strict=False):
        free = len(output) == 3
        assert kept(row) == (set(range(VOCAB)) if free else next_tokens(sids, tuple(output)))
    assert kept(masked[4]) == set(range(VOCAB))
    assert server(logits, None) is logits


class TestGrownTrie:
    """What takes a trie takes one with additions and retired items: as if built anew."""

    @pytest.fixture
    def grown(self) -> tuple[SidIndex, SidTrie, Any, list[int]]:
        codes = colliding_codes()
        catalogue = Catalogue(SidTrie.from_sids(codes[:60], SIZES, TOKENS), merge_share=None)
        catalogue.add(codes[60:])
        gone = [3, 17, 61, 80]
        catalogue.retire(gone)
        kept = np.setdiff1d(np.arange(len(codes)), gone)
        return catalogue.snapshot(), SidTrie.from_sids(codes, SIZES, TOKENS), codes[kept], gone

    def test_scores(self, grown: tuple[SidIndex, SidTrie, Any, list[int]]) -> None:
        snapshot, built, *_ = grown
        model, (ids, mask) = make_model("llama"), make_prompts()
        items = torch.randint(-1, built.num_items, (3, 20))
        for normalize in NORMALIZERS:
            options: dict[str, Any] = {"normalize": normalize}
            torch.testing.assert_close(
                score_candidates(model, ids, mask, snapshot, items, **options),
                score_candidates(model, ids, mask, built, items, **options),
            )
            torch.testing.assert_close(
                score_items(model, ids, mask, snapshot, **options),
                score_items(model, ids, mask, built, **options),
            )

    def test_draws(self, grown: tuple[SidIndex, SidTrie, Any, list[int]]) -> None:
        snapshot, built, _, gone = grown
        model, (ids, mask) = make_model("llama"), make_prompts()
        options: dict[str, Any] = {"num_items": 12, "seeds": torch.arange(3)}
        drawn = sample_items(model, ids, mask, snapshot, **options)
        same = sample_items(model, ids, mask, built, excluded=[gone] * 3, **options)
        for ours, theirs in zip(drawn, same, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)

    def test_other_decoders(self, grown: tuple[SidIndex, SidTrie, Any, list[int]]) -> None:
        snapshot, _, kept_codes, _ = grown
        constraint, sids = SidConstraint(snapshot), spelled(kept_codes)
        for length in range(3):
            for prefix in {sid[:length] for sid in sids}:
                row = torch.tensor([prefix], dtype=torch.int64)
                assert set(constraint.allowed(row).token_C.tolist()) == next_tokens(sids, prefix)

    def test_varied_lists(self, grown: tuple[SidIndex, SidTrie, Any, list[int]]) -> None:
        snapshot, built, _, gone = grown
        model, (ids, mask) = make_model("llama"), make_prompts()
        options: dict[str, Any] = {"num_groups": 3, "num_beams": 3, "num_items": 6, "penalty": 1.0}
        found = diverse_beam_search(model, ids, mask, snapshot, **options)
        same = diverse_beam_search(model, ids, mask, built, excluded=[gone] * 3, **options)
        assert torch.equal(found.items, same.items)
