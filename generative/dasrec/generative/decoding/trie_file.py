"""A trie as one safetensors file, complete or not there at all."""

import json
import os
import zlib
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

_ENTRY = "trie"  # one entry: safetensors writes several in an order that differs between calls


def write_trie(path: str | Path, header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write the file under a temporary name beside `path`, then rename it."""
    path = Path(path)
    values = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {_ENTRY: json.dumps(header | {"checksum": _checksum(values)})}
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file(values, scratch, metadata)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def read_trie(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of what `write_trie` wrote.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a trie, or its bytes have changed.
    """
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})[_ENTRY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        whole = header.pop("checksum") == _checksum(tensors)
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path}: not a trie, or one of another version; build it again"
        ) from error
    if not whole:
        raise ValueError(f"{path}: damaged, its checksum differs; build it again")
    return header, tensors


def _checksum(tensors: dict[str, Tensor]) -> int:
    value = 0
    for name in sorted(tensors):
        value = zlib.crc32(tensors[name].numpy().data, zlib.crc32(name.encode(), value))
    return value
