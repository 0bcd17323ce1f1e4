"""Options that are handed to other libraries: wrong ones are found before any work starts."""

import dataclasses
import difflib
from collections.abc import Collection, Mapping
from typing import Any


def check_options(
    options: Mapping[str, Any], known: Collection[str], owner: str, ours: Collection[str] = ()
) -> None:
    """Refuse options that `owner` does not know, that we set, or that are numbers in quotes.

    Raises:
        ValueError: naming the option and the mend.
    """
    for name, value in options.items():
        if name in ours:
            raise ValueError(f"{name}: is set by dasrec; remove it")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean '{near[0]}'?)" if near else ""
            raise ValueError(f"{name}: {owner} has no such option{hint}")
        if isinstance(value, str) and _is_number(value):
            raise ValueError(
                f"{name}: expected a number, got the text '{value}'; YAML wants a point in the "
                "mantissa and no quotes, e.g. 1.0e-3"
            )


def field_names(owner: type) -> set[str]:
    """Names of a dataclass's fields."""
    return {field.name for field in dataclasses.fields(owner)}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
