"""Where the `evaluate` modules of this package are, and how to load them without a network."""

from pathlib import Path
from typing import Any

METRICS = ("ctr", "ranking_at_k")
"""Names of the modules; each is `metrics/<name>/<name>.py`, a layout that `evaluate` demands."""

COMPARISONS = ("paired_test",)
"""The same for `comparisons/`: two methods on the same queries."""


def metric_path(name: str) -> Path:
    """The folder to give to `evaluate.load`.

    Raises:
        ValueError: no module of that name.
    """
    return _path(name, METRICS, "metric")


def comparison_path(name: str) -> Path:
    """The folder to give to `evaluate.load`, with `module_type="comparison"`.

    Raises:
        ValueError: no module of that name.
    """
    return _path(name, COMPARISONS, "comparison")


def load_metric(name: str) -> Any:
    """`evaluate.load` on the packaged module: works offline and keeps its inputs in memory.

    `evaluate` copies the module below `HF_HOME` first, so that folder must be writable.

    Raises:
        ValueError: no module of that name, or a cache that cannot be written.
    """
    return _load(metric_path(name), "metric")


def load_comparison(name: str) -> Any:
    """The same for a comparison, see `load_metric`."""
    return _load(comparison_path(name), "comparison")


def _path(name: str, known: tuple[str, ...], kind: str) -> Path:
    if name not in known:
        raise ValueError(f"{kind} '{name}': unknown; known: {', '.join(known)}")
    return Path(__file__).parent / f"{kind}s" / name


def _load(path: Path, kind: str) -> Any:
    import evaluate  # seconds: it imports half of the Hugging Face stack

    try:
        return evaluate.load(str(path), module_type=kind, keep_in_memory=True)
    except OSError as error:
        raise ValueError(
            f"{kind} '{path.name}': evaluate cannot write its cache ({error}); "
            "set HF_HOME to a folder that can be written"
        ) from None
