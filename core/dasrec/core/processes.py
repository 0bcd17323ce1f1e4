"""The processes of a run that a launcher (`accelerate launch`) started; one without a launcher.

Training on several of them: every process draws the same batch and computes the loss of its share
of the rows; gradients are averaged, so that the weights stay equal and are those of a single one.
"""

import logging
import os
import sys
from typing import NoReturn

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from torch import Tensor, nn


def processes() -> PartialState:
    """The processes of this run; one, unless a launcher started it."""
    # Left to itself, accelerate takes CPU processes for single ones.
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    return PartialState(cpu=cpu)


def leave() -> NoReturn:
    """End this process of several, its work done, with exit code 0 once all have come here.

    Without the interpreter's finalization: a thread of gloo's that drops its last tensor meanwhile
    asks for the GIL, which kills the process with SIGABRT (pytorch/pytorch#179291).
    """
    dist.barrier()
    dist.destroy_process_group()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def share(x_BX: Tensor) -> Tensor:
    """This process's rows: every W-th one."""
    state = processes()
    return x_BX[state.process_index :: state.num_processes]


def weight(rows: int) -> float:
    """Factor W / rows: a sum over this process's share, so weighted, averages to the mean."""
    return float(processes().num_processes / rows)


def average(values: dict[str, Tensor]) -> dict[str, float]:
    """Means over the processes: those losses that a process computes from its share alone become
    the whole batch's."""
    stacked = torch.stack(list(values.values()))
    if processes().num_processes > 1:
        dist.all_reduce(stacked)
        stacked /= processes().num_processes
    return dict(zip(values, stacked.tolist(), strict=True))


def average_gradients(module: nn.Module) -> None:
    """Mean over the processes, in one message."""
    average_tensors([p.grad for p in module.parameters() if p.grad is not None])


def average_tensors(tensors: list[Tensor]) -> None:
    """Replace each float tensor by its mean over the processes, in one message."""
    if processes().num_processes == 1 or not tensors:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    flat /= processes().num_processes
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view_as(tensor))
