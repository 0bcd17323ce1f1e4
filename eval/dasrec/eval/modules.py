"""Where the `evaluate` modules of this package are, and how to load them without a network."""

from pathlib import Path
from typing import Any

METRICS = ("ctr", "ranking_at_k")
"""Names of the modules; each is `metrics/<name>/<name>.py`, a layout that `evaluate` demands."""


def metric_path(name: str) -> Path:
    """The folder to give to `evaluate.load`.

    Raises:
        ValueError: no module of that name.
    """
    if name not in METRICS:
        raise ValueError(f"metric '{name}': unknown; known: {', '.join(METRICS)}")
    return Path(__file__).parent / "metrics" / name


def load_metric(name: str) -> Any:
    """`evaluate.load` on the packaged module: works offline and keeps its inputs in memory.

    `evaluate` copies the module below `HF_HOME` first, so that folder must be writable.

    Raises:
        ValueError: no module of that name, or a cache that cannot be written.
    """
    path = metric_path(name)
    import evaluate  # seconds: it imports half of the Hugging Face stack

    try:
        return evaluate.load(str(path), keep_in_memory=True)
    except OSError as error:
        raise ValueError(
            f"metric '{name}': evaluate cannot write its cache ({error}); "
            "set HF_HOME to a folder that can be written"
        ) from None
