"""A piece of work in two processes."""

import os
import socket
from collections.abc import Callable
from typing import Any

from torch.multiprocessing.spawn import spawn

from dasrec.core.processes import leave


def in_two_processes(work: Callable[..., object], *args: Any) -> None:
    """Call ``work(rank, *args)`` in two processes, as `accelerate launch --cpu` starts them.

    ``work`` is a function of a module, and must train: its training joins the two.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn(_start, (port, work, args), nprocs=2)


def _start(rank: int, port: int, work: Callable[..., object], args: tuple[Any, ...]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    work(rank, *args)
    leave()
