"""The processes of a run that a launcher (`accelerate launch`) started; one without a launcher."""

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env


def processes() -> PartialState:
    """The processes of this run; one, unless a launcher started it."""
    # Left to itself, accelerate takes CPU processes for single ones.
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    return PartialState(cpu=cpu)
