"""Split token rows against peft's own forward pass, which puts whole matrices together."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.trainable_tokens import TrainableTokensLayer
from tests.generative.world import OPTIONS, World, scratch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM

from dasrec.core import build_config
from dasrec.generative import BaseModelConfig, SidVocabulary, add_lora
from dasrec.generative.model.base_model import build_base_model
from dasrec.generative.model.packed_attention import last_hidden
from dasrec.generative.model.split_tokens import SplitTokensLayer, split_token_rows
from dasrec.generative.training.loss import SidLoss

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Could not find a config file:UserWarning"),
]

EXACT: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9}


def pair(
    tied: bool, architecture: str = "llama", dtype: torch.dtype = torch.float64
) -> tuple[Any, Any, list[int]]:
    """The same PEFT model twice: with peft's forward pass and with ours; rows and LoRA moved."""
    torch.manual_seed(0)
    options = OPTIONS[architecture] | {"vocab_size": 90, "tie_word_embeddings": tied}
    options |= {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **options)).to(
        dtype
    )
    rows = [3, 17, 40, 41, 42, 88]
    indices: Any = rows if tied else {"embed_tokens": rows, "lm_head": rows}
    lora = LoraConfig(r=2, target_modules="all-linear", trainable_token_indices=indices)
    peft = get_peft_model(model, lora).eval()
    with torch.no_grad():
        for parameter in peft.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    ours = copy.deepcopy(peft)
    split_token_rows(ours)
    return peft, ours, rows


def results(model: Any, ids: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    logits = model(input_ids=ids).logits
    picked = logits.log_softmax(-1)[..., :-1, :].gather(-1, ids[:, 1:, None])
    (-picked.sum() + logits.square().mean()).backward()
    return logits.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma2"])
@pytest.mark.parametrize("tied", [True, False])
def test_values_and_gradients_are_those_of_peft(tied: bool, architecture: str) -> None:
    peft, ours, rows = pair(tied, architecture)
    assert sum(type(m) is SplitTokensLayer for m in ours.modules()) == 2
    assert sum(type(m) is TrainableTokensLayer for m in peft.modules()) == 2
    ids = torch.tensor([[3, 5, 40, 88, 7], [41, 42, 1, 17, 3]])
    (expected, theirs), (found, mine) = results(peft, ids), results(ours, ids)
    torch.testing.assert_close(found, expected, **EXACT)
    assert mine.keys() == theirs.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(mine[name], gradient, **EXACT, msg=name)
    moved = [g for name, g in mine.items() if "trainable_tokens_delta" in name]
    assert [g.shape[0] for g in moved] == [len(rows)] * (1 if tied else 2)


def test_no_matrix_of_the_vocabularys_size_is_made_but_the_logits() -> None:
    """Neither on the way there nor back: every tensor that any operation gives is looked at."""
    vocabulary, width = (
        pair(tied=False)[0].get_base_model().get_input_embeddings().original_module.weight.shape
    )

    class Watch(TorchDispatchMode):
        whole = 0

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            out = func(*args, **(kwargs or {}))
            new = isinstance(out, Tensor) and not func.is_view
            self.whole += new and sorted(out.shape) == sorted((vocabulary, width))
            return out

    counts = []
    for model in pair(tied=False)[:2]:
        with Watch() as watch:
            results(model, torch.tensor([[3, 5, 40]]))
        counts.append(watch.whole)
    assert counts[0] > 0
    assert counts[1] == 0


@pytest.mark.parametrize("tied", [True, False])
def test_names_saving_and_merging_stay_pefts(tied: bool, tmp_path: Path) -> None:
    peft, ours, _ = pair(tied)
    ids = torch.tensor([[3, 5, 40, 88, 7]])
    expected = results(ours, ids)[0]  # a pass before saving: what it keeps must not be saved
    assert ours.state_dict().keys() == peft.state_dict().keys()
    for wrapped, folder in ((peft, "peft"), (ours, "ours")):
        wrapped.save_pretrained(tmp_path / folder)
    names = [p.relative_to(tmp_path / "peft") for p in (tmp_path / "peft").iterdir()]
    weights = next(name for name in names if name.suffix == ".safetensors")
    assert (tmp_path / "ours" / weights).read_bytes() == (tmp_path / "peft" / weights).read_bytes()

    plain = copy.deepcopy(peft).unload()
    loaded = PeftModel.from_pretrained(plain, tmp_path / "ours").eval()
    torch.testing.assert_close(loaded(input_ids=ids).logits.detach(), expected, **EXACT)
    merged = ours.merge_and_unload()
    torch.testing.assert_close(
        merged(input_ids=ids).logits.detach(), expected, rtol=1e-5, atol=1e-5
    )
    assert not any(isinstance(m, TrainableTokensLayer) for m in merged.modules())


def test_a_switched_off_adapter_gives_the_base_model() -> None:
    peft, ours, _ = pair(tied=True)
    ids = torch.tensor([[3, 5, 40, 88, 7]])
    with torch.no_grad(), ours.disable_adapter():
        off = ours(input_ids=ids).logits
    with torch.no_grad():
        torch.testing.assert_close(off, peft.unload()(input_ids=ids).logits)


def test_mixed_precision_gives_what_peft_gives() -> None:
    peft, ours, _ = pair(tied=True, dtype=torch.float32)
    ids = torch.tensor([[3, 5, 40, 88, 7], [41, 42, 1, 17, 3]])
    with torch.autocast("cpu", torch.bfloat16):
        expected, found = (model(input_ids=ids).logits for model in (peft, ours))
    assert found.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected)


def test_embeddings_that_renormalise_are_refused() -> None:
    peft, _, _ = pair(tied=True)
    peft.get_base_model().get_input_embeddings().original_module.max_norm = 1.0
    with pytest.raises(ValueError, match=r"lora: .*lora: null"):
        split_token_rows(peft)


def lora_model(world: World, tied: bool) -> tuple[Any, SidVocabulary]:
    values = scratch("qwen3", tie_word_embeddings=tied)
    config = build_config(BaseModelConfig, values, "base")
    model, _, vocabulary = build_base_model(config, world.corpus, world.sids, seed=0)
    return add_lora(model, vocabulary, {"r": 2, "target_modules": "all-linear"}), vocabulary


@pytest.mark.parametrize("tied", [True, False])
def test_the_loss_equals_full_logits_cut_to_the_level(world: World, tied: bool) -> None:
    """Of the wrapped head as of peft's, with text and item targets, adapter on and off."""
    model, vocabulary = lora_model(world, tied)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    items = [level[1] for level in vocabulary.item_levels]
    ids = torch.tensor([[7, *items, 11, 12, *items]])
    loss = SidLoss(vocabulary)

    def by_hand() -> Tensor:
        logits = model(input_ids=ids).logits[0, :-1]
        total = torch.zeros(())
        for row, target in zip(logits, ids[0, 1:].tolist(), strict=True):
            level = next((lv for lv in vocabulary.item_levels if target in lv), None)
            among = list(level) if level else list(range(len(row)))
            total = total - row[among].log_softmax(0)[among.index(target)]
        return total

    with torch.no_grad(), model.disable_adapter():
        off = loss(model, last_hidden(model, {"input_ids": ids}), ids).total
        torch.testing.assert_close(off, by_hand(), rtol=1e-5, atol=1e-5)
    ours, expected = loss(model, last_hidden(model, {"input_ids": ids}), ids).total, by_hand()
    assert not torch.isclose(ours, off)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    ours.backward()
    mine = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    expected.backward()
    for name, gradient in mine.items():
        theirs = model.get_parameter(name).grad
        torch.testing.assert_close(gradient, theirs, rtol=1e-4, atol=1e-5, msg=name)
