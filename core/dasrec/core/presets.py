"""Default `PrepareConfig` values for public datasets; a config's own keys win over them."""

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {}
