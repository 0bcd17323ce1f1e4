"""Batches: which rows, and packed against padded against one row at a time."""

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from tests.generative.world import OPTIONS, World, scratch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, MambaConfig, MambaForCausalLM

from dasrec.core import build_config
from dasrec.generative import BaseModelConfig, SequenceBuilder, SidVocabulary
from dasrec.generative.data.batches import BatchSampler, EpochLoader, FlatRows, RowReader
from dasrec.generative.data.config import DataConfig
from dasrec.generative.data.packing import Collator, hide_users, pack, pad
from dasrec.generative.data.prefixes import prefix_windows
from dasrec.generative.data.sequences import sequence_dataset
from dasrec.generative.data.tasks import training_rows
from dasrec.generative.data.tokens import IGNORE
from dasrec.generative.model import packed_attention
from dasrec.generative.model.base_model import build_base_model
from dasrec.generative.model.packed_attention import NAME, check_packed, last_hidden, packed_batches
from dasrec.generative.training.loss import SidLoss

FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0},
    "llama": {},
    "qwen3": {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
    "gemma2": {"sliding_window": 7, "attn_logit_softcapping": 2.0},
    "granite": {},
}


def flat(*rows: tuple[list[int], list[int]], hidden: tuple[bool, ...] = ()) -> FlatRows:
    tokens, labels = ([x for row in rows for x in row[side]] for side in (0, 1))
    starts = np.cumsum([0, *(len(row[0]) for row in rows)])
    flags = np.array(hidden or (False,) * len(rows))
    return FlatRows(np.array(tokens), np.array(labels), starts, flags)


@pytest.mark.parametrize("grouped", [True, False])
def test_batches_cover_all_rows_and_repeat_by_epoch(grouped: bool) -> None:
    lengths = [np.arange(1, 51), np.full(20, 3)]
    batches = BatchSampler(lengths, [1.0, 0.5], batch_size=8, seed=3, grouped=grouped)
    first = list(batches)
    assert len(first) == len(batches) == 8
    assert sorted(row for batch in first for row in batch if row < 50) == list(range(50))
    assert sum(row >= 50 for batch in first for row in batch) == 10
    batches.set_epoch(1)
    assert list(batches) != first
    batches.set_epoch(0)
    assert list(batches) == first
    length = np.concatenate(lengths)
    spread = np.mean([np.ptp(length[batch]) for batch in first])
    assert spread < 12 if grouped else spread > 30


@pytest.mark.parametrize(("rows", "processes"), [(60, 2), (61, 2), (60, 3), (7, 5)])
def test_processes_share_the_batches_of_one(rows: int, processes: int) -> None:
    def sampler(size: int, **place: Any) -> list[list[int]]:
        lengths = [np.arange(1, rows + 1)]
        return list(BatchSampler(lengths, [1.0], size, 0, user_dropout=0.3, **place))

    alone = sampler(4 * processes)
    shares = [sampler(4, process=p, processes=processes) for p in range(processes)]
    together = [sorted(chain(*parts)) for parts in zip(*shares, strict=True)]
    assert sorted(chain(*together)) == sorted(chain(*alone))
    assert all(batch for share in shares for batch in share)  # no process ever waits in vain
    assert together == [sorted(batch) for batch in alone] or 0 < rows % (4 * processes) < processes


def test_fewer_rows_than_processes_are_refused() -> None:
    with pytest.raises(ValueError, match="2 training rows for 3 processes"):
        BatchSampler([np.array([4, 4])], [1.0], 8, 0, processes=3)


def test_user_dropout_hides_its_share_of_the_rows_anew_each_epoch() -> None:
    batches = BatchSampler([np.full(4000, 5)], [1.0], 100, 0, user_dropout=0.3)
    hidden = [{row for batch in batches for row in batch if row < 0}]
    batches.set_epoch(1)
    hidden.append({row for batch in batches for row in batch if row < 0})
    assert all(abs(len(rows) / 4000 - 0.3) < 0.03 for rows in hidden)
    assert hidden[0] != hidden[1]


def test_hidden_users_become_anonymous() -> None:
    rows = flat(
        ([9, 4, 5, 1, 2], [IGNORE, IGNORE, IGNORE, 1, 2]),
        ([7, 3], [IGNORE, 3]),  # begins with no user
        ([9, 6, 5, 1], [IGNORE, IGNORE, IGNORE, 1]),
        hidden=(True, True, False),
    )
    found = hide_users(rows, user_token=9, anonymous_token=8, prefix=3)
    assert found.tokens.tolist() == [8, 1, 2, 7, 3, 9, 6, 5, 1]
    assert found.labels.tolist() == [IGNORE, 1, 2, IGNORE, 3, IGNORE, IGNORE, IGNORE, 1]
    assert found.starts.tolist() == [0, 3, 5, 9]


def test_padded_and_packed_tensors() -> None:
    rows = flat(([1, 2, 3], [IGNORE, 2, 3]), ([4, 5], [4, 5]))
    padded = pad(rows, pad_token_id=0)
    assert padded["input_ids"].tolist() == [[1, 2, 3], [4, 5, 0]]
    assert padded["labels"].tolist() == [[IGNORE, 2, 3], [4, 5, IGNORE]]
    packed = pack(rows)  # the short row first
    assert packed["input_ids"].tolist() == [[4, 5, 1, 2, 3]]
    assert packed["labels"].tolist() == [[IGNORE, 5, IGNORE, 2, 3]]  # 4 follows nothing
    assert packed["position_ids"].tolist() == [[0, 1, 0, 1, 2]]
    assert packed["cu_seq_lens_q"].tolist() == [0, 2, 5]
    assert packed["max_length_q"] == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_the_loader_reads_the_rows_that_the_sampler_names(workers: int) -> None:
    rows = [[9, 4, row, row + 1] for row in range(30)]
    dataset = Dataset.from_dict({"input_ids": rows, "labels": [[IGNORE] * 3 + r[3:] for r in rows]})
    batches = BatchSampler([np.full(30, 4)], [1.0], 8, 0, user_dropout=0.5)
    collator: Any = Collator(0, 9, 8, 2, packed=False)
    loader = EpochLoader(
        RowReader(dataset), batch_sampler=batches, collate_fn=collator, num_workers=workers
    )
    loader.set_epoch(2)
    seen = []
    for batch, draws in zip(loader, batches, strict=True):
        for row, draw in zip(batch["input_ids"].tolist(), draws, strict=True):
            expected = rows[draw] if draw >= 0 else [8, *rows[~draw][2:], 0]
            assert row[: len(expected)] == expected[: len(row)]
            seen.append(draw if draw >= 0 else ~draw)
    assert sorted(seen) == list(range(30))


def base(world: World, family: str) -> tuple[Any, Any, SidVocabulary]:
    config = build_config(BaseModelConfig, scratch(family, **FAMILIES[family]), "base")
    model, tokenizer, vocabulary = build_base_model(config, world.corpus, world.sids, seed=0)
    torch.manual_seed(0)
    with torch.no_grad():  # weights as small as at the start would hide what attention does
        for name, parameter in model.named_parameters():
            if "norm" not in name and "ln_" not in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model, tokenizer, vocabulary


def some_rows(world: World, vocabulary: SidVocabulary, count: int) -> FlatRows:
    dataset = sequence_dataset(world.corpus, SequenceBuilder(world.sids, vocabulary))
    return RowReader(dataset).__getitems__(list(range(count)))


def gradients(model: Any) -> list[Tensor]:
    found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    return found


@pytest.mark.parametrize("spread", [0.5, 100.0], ids=["groups", "one group"])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_rows_have_the_loss_and_gradients_of_each_row_and_of_each_prefix(
    world: World, family: str, spread: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_attention, "SPREAD", spread)
    model, tokenizer, vocabulary = base(world, family)
    rows, loss = some_rows(world, vocabulary, 5), SidLoss(vocabulary)
    model.train()
    own = model.config._attn_implementation

    batch = pack(rows)
    labels = batch.pop("labels")
    with packed_batches(model):
        assert model.config._attn_implementation == NAME
        packed, count = loss(model, last_hidden(model, batch), labels)
        packed.backward()
    assert model.config._attn_implementation == own
    of_packed = gradients(model)

    padded = pad(rows, tokenizer.pad_token_id)
    total, _ = loss(model, last_hidden(model, {"input_ids": padded["input_ids"]}), padded["labels"])
    total.backward()
    of_padded = gradients(model)

    each, prefixes, targets = 0.0, 0.0, 0
    for first, end in zip(rows.starts[:-1], rows.starts[1:], strict=True):
        ids = torch.from_numpy(rows.tokens[None, first:end])
        marks = torch.from_numpy(rows.labels[None, first:end])
        one, _ = loss(model, last_hidden(model, {"input_ids": ids}), marks)
        each += float(one.detach())
        one.backward()
        with torch.no_grad():
            for place in np.flatnonzero(marks[0].numpy() != IGNORE):
                alone = torch.full((1, int(place) + 1), IGNORE)
                alone[0, -1] = marks[0, place]
                hidden = last_hidden(model, {"input_ids": ids[:, : place + 1]})
                prefixes += float(loss(model, hidden, alone).total)
                targets += 1
    of_rows = gradients(model)

    assert count == targets
    for other in (float(total.detach()), each, prefixes):
        assert float(packed.detach()) == pytest.approx(other, rel=1e-5)
    for ours, padded_grad, row_grad in zip(of_packed, of_padded, of_rows, strict=True):
        torch.testing.assert_close(ours, row_grad, rtol=1e-4, atol=2e-5)
        torch.testing.assert_close(ours, padded_grad, rtol=1e-4, atol=2e-5)


def test_prefix_windows_are_what_a_loop_makes(world: World) -> None:
    corpus = world.corpus
    expected = []
    for user in range(corpus.num_users):
        rows = [row for row in corpus.train_rows if corpus.user_idx[row] == user]
        for place, row in enumerate(rows):
            window = [*rows[max(0, place - 3) : place], row]
            expected.append((user, corpus.item_idx[window].tolist(), corpus.timestamp[window]))
    users, items, times = prefix_windows(corpus, 3)
    assert users.tolist() == [user for user, _, _ in expected]
    for index, (_, window, seconds) in enumerate(expected):
        part = slice(items.starts[index], items.starts[index + 1])
        assert items.values[part].tolist() == window
        assert times[part].tolist() == seconds.tolist()


def test_all_positions_and_all_prefixes_have_the_same_loss(world: World, tmp_path: Path) -> None:
    model, tokenizer, vocabulary = base(world, "llama")
    builder, loss = SequenceBuilder(world.sids, vocabulary), SidLoss(vocabulary)
    found = {}
    for rows in ("positions", "prefixes"):
        config = DataConfig(rows=rows)
        (task,) = training_rows(
            config, world.corpus, builder, tokenizer, tmp_path / rows, max_tokens=None, seed=0
        )
        batch = pack(RowReader(task.rows).__getitems__(list(range(len(task.rows)))))
        labels = batch.pop("labels")
        with packed_batches(model.eval()), torch.no_grad():
            total, count = loss(model, last_hidden(model, batch), labels)
        found[rows] = (float(total), count, len(task.rows))
    assert found["positions"][0] == pytest.approx(found["prefixes"][0], rel=1e-5)
    assert found["positions"][1] == found["prefixes"][1] == 3 * len(world.corpus.train_rows)
    assert found["positions"][2] < found["prefixes"][2] == len(world.corpus.train_rows)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_row_sees_another(world: World, family: str) -> None:
    model, _, vocabulary = base(world, family)
    batch = pack(some_rows(world, vocabulary, 3))
    batch.pop("labels")
    first, second = (int(batch["cu_seq_lens_q"][index]) for index in (1, 2))
    with packed_batches(model.eval()), torch.no_grad():
        before = last_hidden(model, batch)
        batch["input_ids"] = batch["input_ids"].clone()
        batch["input_ids"][0, :first] = 3
        batch["input_ids"][0, second:] = 5
        after = last_hidden(model, batch)
    assert torch.equal(before[:, first:second], after[:, first:second])
    assert not torch.isclose(before[:, :first], after[:, :first]).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_families_pass_the_check_at_any_length(world: World, family: str) -> None:
    model, _, _ = base(world, family)
    model.train()
    check_packed(model, 30)
    check_packed(model, 2)
    assert model.training


def test_a_bfloat16_model_passes_the_check(world: World) -> None:
    model, _, _ = base(world, "llama")
    check_packed(model.bfloat16(), 30)


def test_models_that_mix_packed_rows_are_refused(world: World) -> None:
    small = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "pad_token_id": 0}
    mamba = MambaForCausalLM(MambaConfig(**small, state_size=4, bos_token_id=0, eos_token_id=0))
    with pytest.raises(ValueError, match=r"mamba cannot train on packed rows.*batching: padded"):
        check_packed(mamba, 20)
    model, _, _ = base(world, "llama")
    model.config.layer_types = ["chunked_attention", "full_attention"]
    with pytest.raises(ValueError, match="it has layers of chunked_attention"):
        check_packed(model, 20)


def test_attention_with_gradient_checkpoints_and_dropout_runs(world: World) -> None:
    options = OPTIONS["gpt2"] | {"vocab_size": 400, "bos_token_id": None, "eos_token_id": None}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", **options))
    batch = pack(flat(([1, 2, 3], [IGNORE, 2, 3]), ([4, 5], [IGNORE, 5])))
    batch.pop("labels")
    with packed_batches(model.train()):
        torch.manual_seed(0)
        last_hidden(model, batch).square().sum().backward()
        plain = gradients(model)
        model.activation_checkpointing_enable()
        torch.manual_seed(0)
        last_hidden(model, batch).square().sum().backward()
    for ours, expected in zip(gradients(model), plain, strict=True):
        torch.testing.assert_close(ours, expected)
