"""The trie as a constraint inside vLLM and SGLang, so that every sample of theirs is an item.

Written to the interfaces that these engines document and define (vLLM 0.20 to 0.32, SGLang 0.5),
and tested with stand-ins for them; not run inside either engine. They sample or take the best
token: the probabilities are over the codes that lead to an item, and the order of samples is not a
ranking. For the exact ranking use `constrained_beam_search`.

Requests say where the trie is (what `SidTrie.save` wrote): `extra_args={"sid_trie": PATH}` in vLLM,
`custom_params={"sid_trie": PATH}` in SGLang. Requests without it are left alone. Set the number of
new tokens to L, the levels of the trie; what comes after a whole SID is not constrained. Where SIDs
differ in length, `"sid_after_end": TOKEN` beside the path names the token that fills up short ones.

Shape letters: R rows of logits, V vocabulary, L levels, S codes generated so far.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dasrec.generative.decoding.constraint import SidConstraint
from dasrec.generative.decoding.trie import SidTrie

_KEY, _AFTER_END = "sid_trie", "sid_after_end"


@lru_cache(maxsize=4)
def load_constraint(path: str, device: torch.device, after_end: int | None = None) -> SidConstraint:
    """The constraint of a saved trie; read once per process."""
    return SidConstraint(SidTrie.load(path).to(device), after_end)


class _Asked(NamedTuple):
    """What a request says of its trie."""

    path: str
    after_end: int | None

    @classmethod
    def by(cls, params: dict[str, Any] | None) -> "_Asked | None":
        """What the parameters of a request ask for, if anything."""
        if not params or params.get(_KEY) is None:
            return None
        return cls(params[_KEY], params.get(_AFTER_END))

    def constraint(self, device: torch.device) -> SidConstraint:
        return load_constraint(self.path, device, self.after_end)


def check_request(params: dict[str, Any] | None) -> None:
    """Refuse a request whose trie cannot be used, where an error costs that request alone.

    Raises:
        ValueError: No file at the path, not a trie, or one that needs `sid_after_end`.
    """
    asked = _Asked.by(params)
    if asked is None:
        return
    if not Path(asked.path).is_file():
        raise ValueError(f"{_KEY}: no file {asked.path}; give the path of a saved trie")
    asked.constraint(torch.device("cpu"))


class VllmRequestConstraint:
    """One request's constraint for vLLM's first model runner.

    Use: a subclass of `vllm.v1.sample.logits_processor.AdapterLogitsProcessor` whose
    `is_argmax_invariant` is False and whose `new_req_logits_processor(params)` returns
    `VllmRequestConstraint.of(params)`, given to `LLM(logits_processors=[...])`. Its
    `validate_params(params)` may call `check_request(params.extra_args)`.
    """

    def __init__(self, path: str, after_end: int | None = None) -> None:
        """Constrain one request to the trie saved at `path`."""
        self._asked = _Asked(path, after_end)

    @classmethod
    def of(cls, params: Any) -> "VllmRequestConstraint | None":
        """The constraint that a request's `SamplingParams` ask for, if any."""
        asked = _Asked.by(params.extra_args)
        return None if asked is None else cls(*asked)

    def __call__(self, output_token_ids: list[int], logits: Tensor) -> Tensor:
        """(V,) logits, -inf at tokens that lead to no item."""
        constraint = self._asked.constraint(logits.device)
        token_1S = torch.tensor([output_token_ids], dtype=torch.int64, device=logits.device)
        if token_1S.shape[1] >= constraint.trie.num_levels:
            return logits
        return constraint.mask(logits.unsqueeze(0), token_1S).squeeze(0)


class VllmBatchConstraint:
    """All requests' constraint for vLLM's second model runner (the default from 0.32 on).

    Use: `class Sids(VllmBatchConstraint, LogitsProcessor): pass` with the `LogitsProcessor` of
    `vllm.v1.worker.gpu.sample.logits_processor`, given to `LLM(logits_processors=[Sids])`. Not for
    speculative decoding: draft tokens are not read.
    """

    def __init__(self, vllm_config: Any, req_states: Any) -> None:
        """Keep the engine's view of the tokens of all request slots."""
        self._states = req_states
        self._asked: list[_Asked | None] = [None] * req_states.max_num_reqs

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Refuse a request before it reaches the model.

        Raises:
            ValueError: See `check_request`.
        """
        check_request(sampling_params.extra_args)

    def apply_staged_writes(self) -> None:
        """Nothing waits on the host."""

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Note a slot's trie; whether its logits have to be changed."""
        self._asked[req_idx] = _Asked.by(sampling_params.extra_args)
        return self._asked[req_idx] is not None

    def apply(self, logits: Tensor, ctx: Any) -> Tensor:
        """(R, V) logits, -inf at tokens that lead to no item."""
        slot_R = ctx.expanded_idx_mapping.long()
        asked_R = [self._asked[slot] for slot in slot_R.tolist()]
        start_R = self._states.prompt_len.gpu[slot_R].long()
        length_R = self._states.total_len.gpu[slot_R].long() - start_R
        all_tokens = self._states.all_token_ids.gpu
        for asked in {asked for asked in asked_R if asked is not None}:
            row_N = torch.tensor([i for i, a in enumerate(asked_R) if a == asked]).to(logits.device)
            constraint = asked.constraint(logits.device)
            num_levels = constraint.trie.num_levels
            place_NL = start_R[row_N].unsqueeze(1) + torch.arange(num_levels, device=logits.device)
            place_NL = place_NL.clamp(max=all_tokens.shape[1] - 1)
            token_NL = all_tokens[slot_R[row_N]].gather(1, place_NL).long()
            _mask_rows(logits, constraint, row_N, token_NL, length_R[row_N])
        return logits


class SglangConstraint:
    """The constraint for SGLang, started with `--enable-custom-logit-processor`.

    Use: `class Sids(SglangConstraint, CustomLogitProcessor): pass` with the `CustomLogitProcessor`
    of `sglang.srt.sampling.custom_logit_processor`; a request takes
    `custom_logit_processor=Sids().to_str()` and the path in its `custom_params`.
    """

    def __call__(
        self, logits: Tensor, custom_param_list: list[dict[str, Any]] | None = None
    ) -> Tensor:
        """(R, V) logits, -inf at tokens that lead to no item.

        Args:
            logits: (R, V), changed in place.
            custom_param_list: One of each row; SGLang adds the request as `__req__`.
        """
        rows: dict[_Asked, list[int]] = {}
        outputs: dict[int, list[int]] = {}
        for row, params in enumerate(custom_param_list or []):
            asked = _Asked.by(params)
            if asked is not None:
                rows.setdefault(asked, []).append(row)
                outputs[row] = list(params["__req__"].output_ids)
        for asked, group in rows.items():
            constraint = asked.constraint(logits.device)
            num_levels = constraint.trie.num_levels
            padded = [(outputs[row] + [0] * num_levels)[:num_levels] for row in group]
            row_N, token_NL, length_N = (
                torch.tensor(values, dtype=torch.int64).to(logits.device)
                for values in (group, padded, [len(outputs[row]) for row in group])
            )
            _mask_rows(logits, constraint, row_N, token_NL, length_N)
        return logits


def _mask_rows(
    logits: Tensor, constraint: SidConstraint, row_N: Tensor, token_NL: Tensor, length_N: Tensor
) -> None:
    """Mask some rows in place, each after its own number of codes."""
    for length in range(token_NL.shape[1]):
        here_M = (length_N == length).nonzero().squeeze(1)
        if len(here_M):
            rows = row_N[here_M]
            logits[rows] = constraint.mask(logits[rows], token_NL[here_M, :length])
