"""The file that a benchmark writes."""

import json
import sys
from pathlib import Path
from typing import Any

from dasrec.core.artifacts import code_version
from dasrec.eval.results import hardware, typed


def write_document(out: Path, name: str, rows: list[dict[str, Any]], **more: object) -> None:
    """Write `rows` with the machine, the command and the code.

    Args:
        out: the JSON file.
        name: of the module under `benchmarks` that is running.
        rows: what was measured.
        more: further entries, e.g. the number of threads.
    """
    document = {
        "name": name,
        "hardware": hardware(),
        "command": typed(["python", "-m", f"benchmarks.{name}", *sys.argv[1:]]),
        "code": code_version(),
        **more,
        "rows": rows,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")
