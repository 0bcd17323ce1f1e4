"""The output layer of a causal language model, restricted to one level's tokens at a time.

A 151k-row head and its log-softmax cost more than a small body; a level needs K rows of it.

Shape letters: B users, S positions, H hidden width, V vocabulary, L levels, K codes of a level,
R rows of any batch shape, X = H, or V where the head cannot be restricted (see `LevelHead`).
"""

import copy
import inspect
import logging
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dasrec.generative.decoding.last_position import LastPosition
from dasrec.generative.decoding.output_rows import Rows, TokenRows
from dasrec.generative.model.logits import rescale

logger = logging.getLogger(__name__)

Normalize = Literal["level", "full", "trie"]
"""What a code's probability is normalised over: the level's K codes, the whole vocabulary (as
`generate` does), or the codes that lead to an existing (and allowed) item."""

_LOGITS_PER_CHUNK = 2**24
_LOGITS_IN_CACHE = 2**20  # of a CPU, which is a third faster on them than on fresh memory
_LEAST_TOKENS = 2_048
_PRODUCTS_ON_CPU = 2**18
_SPARSE = 32  # a product of two gathered rows takes about as long as this many of a whole matrix


class LevelHead:
    """Body and per-level output rows of a Hugging Face causal LM, plain or wrapped by PEFT.

    Nothing is copied: the rows are read from the model's weights at each use, so one head serves
    while they are trained, merged or switched between adapters.

    At construction the restricted logits are compared with the model's own on one row. Where they
    differ (an output transformation this class does not know), the full head is used and sliced,
    with a warning: right, but slower.

    Attributes:
        config: The text model's config.
        arguments: Names of the arguments that the decoder takes.
        restricted: Whether only the level's rows are computed.
        dtype: Of the hidden states, and of an additive attention mask.
    """

    def __init__(self, model: nn.Module, level_token_ids: Sequence[Tensor]) -> None:
        """Find the rows of each level; costs two passes over one token per level.

        Args:
            model: Any `AutoModelForCausalLM`, or a PeftModel around one; in eval mode.
            level_token_ids: L tensors (K,) of vocabulary ids.

        Raises:
            ValueError: The model is in training mode or keeps no keys and values, or a token is
                outside its vocabulary.
        """
        self.model: Any = model
        self._require_eval()
        base: Any = self.model
        if hasattr(base, "get_base_model"):
            base = base.get_base_model()
        self.config: Any = base.config.get_text_config()
        self._body: Any = base.get_decoder()
        self.arguments = frozenset(inspect.signature(self._body.forward).parameters)
        if "past_key_values" not in self.arguments:
            raise ValueError(
                f"model: {type(base).__name__}: its decoder takes no past_key_values, without which"
                " beams cannot share a prompt; take a transformer with a key-value cache"
            )
        self._output: Any = base.get_output_embeddings()
        self._last = LastPosition(self._body)
        self.restricted = True
        with torch.no_grad():
            embedding: Any = base.get_input_embeddings()
            # peft's wrapper copies the whole matrix when asked for its weight.
            embedding_VH: Tensor = getattr(embedding, "original_module", embedding).weight
            self._tokens = [tokens.to(embedding_VH.device) for tokens in level_token_ids]
            self._check_vocabulary(len(embedding_VH))
            self._token_rows = [TokenRows(tokens) for tokens in self._tokens]
            self.restricted = self._agrees()
        if not self.restricted:
            logger.warning(
                "%s: its logits are not those of its output embedding; using the full head",
                type(base).__name__,
            )

    def compiled(self) -> "LevelHead":
        """One that runs the model through torch.compile, anew for each shape it meets."""
        head = copy.copy(self)
        body: Any = torch.compile(self._body, fullgraph=True, dynamic=False)

        def run(**inputs: Any) -> Any:
            # Each step of a search has a shape of its own, so a version; the default allows 8.
            with torch._dynamo.config.patch(recompile_limit=64):
                return body(**inputs)

        head._body = run
        head._last = LastPosition(nn.Module())
        return head

    def states(self, last_only: bool = False, **inputs: Any) -> Tensor:
        """Run the model; (B, S, X) states to be given to `logits` and `log_normalizer`.

        `last_only` keeps the last position, S = 1. `inputs` are the model's own arguments.
        """
        self._require_eval()
        if self.restricted:
            return self._last_state(inputs) if last_only else self._body(**inputs).last_hidden_state
        logits: Tensor = self.model(logits_to_keep=int(last_only), **inputs).logits
        return logits

    def _last_state(self, inputs: dict[str, Any]) -> Tensor:
        with self._last.only():
            states: Tensor = self._body(**inputs).last_hidden_state
        return states[:, -1:]

    def rows(self, level: int) -> Rows | None:
        """The output layer's rows for the codes of `level` as they are now.

        None for a layer whose rows cannot be read one by one; `logits` then runs it in full.
        """
        return self._token_rows[level].of(self._output)

    def logits(self, states_RX: Tensor, level: int) -> Tensor:
        """(R, K) float32 logits of the codes of `level`."""
        if not self.restricted:
            return states_RX[..., self._tokens[level]].float()
        rows = self.rows(level)
        if rows is None:
            return self._columns(states_RX, level)
        return self.logits_by(rows, states_RX)

    def logits_by(self, rows: Rows, states_RX: Tensor) -> Tensor:
        """(R, K) float32 logits by rows that were read before."""
        bias = None if rows.bias is None else rows.bias.float()
        logits = F.linear(states_RX.float(), rows.weight.float(), bias)
        return rescale(logits, self.config)

    def logits_at(self, states_RX: Tensor, level: int, row_C: Tensor, code_C: Tensor) -> Tensor:
        """(C,) float32 logits of single codes of `level`, each after the state of its row (R, X).

        Where they are few, only their own rows of the output layer are multiplied.
        """
        cells = len(states_RX) * len(self._tokens[level])
        rows = self.rows(level) if self.restricted and len(row_C) * _SPARSE < cells else None
        if rows is None:
            # index_select: four times as fast as indexing on a CPU
            cell_C = row_C * len(self._tokens[level]) + code_C
            return self.logits(states_RX, level).flatten().index_select(0, cell_C)
        # On a CPU in parts that stay in its cache: fresh memory costs more than the products.
        numbers = _PRODUCTS_ON_CPU if row_C.device.type == "cpu" else _LOGITS_PER_CHUNK
        parts = max(1, numbers // states_RX.shape[-1])
        logits_C = torch.cat(
            [
                _products(states_RX, row_D, rows.weight, code_D)
                for row_D, code_D in zip(row_C.split(parts), code_C.split(parts), strict=True)
            ]
        )
        if rows.bias is not None:
            logits_C += rows.bias.index_select(0, code_C).float()
        return rescale(logits_C, self.config)

    def log_normalizer(self, states_RX: Tensor, logits_RK: Tensor, normalize: Normalize) -> Tensor:
        """(R,) float32 log of the sum of exp(logit) over the level's codes or the vocabulary."""
        if normalize != "full":
            return logits_RK.logsumexp(-1)
        if self.restricted and type(self._output) is nn.Linear:
            log_z = self._log_sum_exp(self._output, states_RX)
        else:
            parts = [self._full(chunk).logsumexp(-1) for chunk in self._chunks(states_RX)]
            log_z = torch.cat(parts).view(states_RX.shape[:-1])
        if torch.finfo(states_RX.dtype).bits < 32:
            # Rounded as the vocabulary's logits are, a sum can come out below its own part.
            log_z = torch.maximum(log_z, logits_RK.logsumexp(-1))
        return log_z

    def _log_sum_exp(self, output: nn.Linear, states_RX: Tensor) -> Tensor:
        """(R,) log of the sum of exp(logit) over the vocabulary, some tokens at a time."""
        flat = states_RX.reshape(-1, states_RX.shape[-1])
        logits = _LOGITS_IN_CACHE if flat.device.type == "cpu" else _LOGITS_PER_CHUNK
        size = max(_LEAST_TOKENS, logits // max(1, len(flat)))
        weights = output.weight.split(size)
        biases = [None] * len(weights) if output.bias is None else output.bias.split(size)
        rows = []
        for chunk in flat.split(max(1, _LOGITS_PER_CHUNK // size)):
            parts = [
                rescale(F.linear(chunk, weight, bias).float(), self.config).logsumexp(-1)
                for weight, bias in zip(weights, biases, strict=True)
            ]
            rows.append(torch.stack(parts, -1).logsumexp(-1))
        return torch.cat(rows).view(states_RX.shape[:-1])

    def _columns(self, states_RX: Tensor, level: int) -> Tensor:
        ids = self._tokens[level]
        parts = [self._full(chunk)[:, ids] for chunk in self._chunks(states_RX)]
        return torch.cat(parts).view(*states_RX.shape[:-1], len(ids))

    def _chunks(self, states_RX: Tensor) -> Sequence[Tensor]:
        """Rows whose logits over the vocabulary fit into memory."""
        rows = max(1, _LOGITS_PER_CHUNK // self._vocab_size)
        return torch.split(states_RX.reshape(-1, states_RX.shape[-1]), rows)

    def _full(self, states_RX: Tensor) -> Tensor:
        if not self.restricted:
            return states_RX.float()
        return rescale(self._output(states_RX).float(), self.config)

    def _require_eval(self) -> None:
        if self.model.training:
            raise ValueError(
                "model: dropout is on (training mode); call model.eval() before decoding"
            )

    def _check_vocabulary(self, size: int) -> None:
        self._vocab_size = size
        for level, tokens in enumerate(self._tokens):
            if int(tokens.min()) < 0 or int(tokens.max()) >= size:
                raise ValueError(
                    f"level {level}: token id outside the model's vocabulary of {size}, got"
                    f" {int(tokens.min())}..{int(tokens.max())}; resize the token embeddings"
                )

    def _agrees(self) -> bool:
        """Whether restricted logits are the model's logits, on one short row."""
        ids = torch.stack([tokens[0] for tokens in self._tokens]).unsqueeze(0)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
        full = self.model(logits_to_keep=1, **inputs).logits[:, -1]
        if self._last:
            try:
                if self._same_logits(self._last_state(inputs), full):
                    return True
            except RuntimeError:
                pass  # the layer does more with these modules' outputs than add them
            self._last = LastPosition(nn.Module())
        return self._same_logits(self._last_state(inputs), full)

    def _same_logits(self, hidden_B1H: Tensor, full: Tensor) -> bool:
        hidden = hidden_B1H[:, -1]
        self.dtype: torch.dtype = hidden.dtype
        # Rounding of the model's own dtype, and of a TF32 or bf16 matrix product.
        tolerance = max(2 * torch.finfo(full.dtype).eps, 2e-3)
        return all(
            torch.allclose(
                self.logits(hidden, level),
                full[:, tokens].float(),
                rtol=tolerance,
                atol=tolerance * float(full.abs().max()),
            )
            for level, tokens in enumerate(self._tokens)
        )


def _products(left_RX: Tensor, row_C: Tensor, right_KX: Tensor, code_C: Tensor) -> Tensor:
    """(C,) inner products of rows of two matrices."""
    products_CX = left_RX.index_select(0, row_C).float()
    products_CX *= right_KX.index_select(0, code_C).float()
    return products_CX.sum(-1)
