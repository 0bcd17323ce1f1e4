"""Training on several processes (`accelerate launch`) with the loss of a single one.

Every process draws the same batch. It encodes its share of the rows, the encodings are gathered
with their gradients, and from there on all compute the same loss: in-batch negatives come from all
devices. Gradients are averaged, so that rows count once (see `gather`).
"""

import torch
import torch.distributed as dist
from torch import Tensor

from dasrec.core.processes import processes, share


def gather(mine: Tensor, rows: int) -> Tensor:
    """All (rows, ...) of what the processes computed from `share`, in the order of the batch.

    The gradient of every process's copy is summed for the rows' owner. All copies are equal, so
    it is W times too large, which averaging the parameters' gradients over the W processes undoes.
    """
    if processes().num_processes == 1:
        return mine
    return _Gather.apply(mine, rows)  # type: ignore[no-untyped-call, no-any-return]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, mine, rows):  # type: ignore[no-untyped-def]
        state = processes()
        ctx.sizes = (len(mine), rows)
        world = state.num_processes
        padded = mine.new_zeros((-(-rows // world), *mine.shape[1:]))
        padded[: len(mine)] = mine
        parts = [torch.empty_like(padded) for _ in range(world)]
        dist.all_gather(parts, padded)
        return torch.stack(parts, 1).flatten(0, 1)[:rows]

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return share(gradient), None
