"""Loading a base model in 8 or 4 bits with bitsandbytes, through transformers."""

from importlib.util import find_spec
from typing import Any

import torch
from transformers import BitsAndBytesConfig


def require_bitsandbytes(quantization: str) -> None:
    """Refuse quantization where the library for it is not installed.

    Raises:
        ValueError: bitsandbytes is not there.
    """
    if find_spec("bitsandbytes") is None:
        raise ValueError(
            f"generator.pretrain.base.quantization: '{quantization}' needs bitsandbytes, which is "
            "not installed; run `pip install bitsandbytes`, or set it to null"
        )


def loading_options(base: dict[str, Any]) -> dict[str, Any]:
    """What `from_pretrained` must be given for a base model of this config.

    Four bits are NF4 with doubly quantized constants, as in QLoRA (2305.14314 section 3).

    Args:
        base: values of a `BaseModelConfig`.
    """
    quantization = base.get("quantization")
    if quantization is None:
        return {}
    require_bitsandbytes(quantization)
    if quantization == "8bit":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, base["dtype"]),
        )
    }
