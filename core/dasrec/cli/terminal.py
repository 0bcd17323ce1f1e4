"""Where commands print."""

import sys

from rich.console import Console


def terminal() -> Console:
    """The terminal, or 120 columns where the output goes to a file."""
    return Console(width=None if sys.stdout.isatty() else 120)
