from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field, model_validator

from dasrec.core import StageConfig, apply_overrides, build_config
from dasrec.core.config import read_yaml


class Inner(StageConfig):
    rate: float = 0.5


class Demo(StageConfig):
    num_levels: int = 3
    distance: Literal["l2", "cosine"] = "l2"
    sizes: tuple[int, ...] = (4, 4)
    inner: Inner = Inner()
    named: dict[str, Inner] = Field(default_factory=dict)

    @model_validator(mode="after")
    def check(self) -> "Demo":
        if self.num_levels < 1:
            raise ValueError(f"num_levels must be at least 1, got {self.num_levels}")
        return self


def test_lists_and_nested_sections_are_read() -> None:
    demo = build_config(Demo, {"sizes": [8, 2], "named": {"a": {"rate": 1}}}, "demo.yaml: x")
    assert demo.sizes == (8, 2)
    assert demo.named["a"].rate == 1.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_level": 4}, r"^f.yaml: x: unknown key 'num_level' \(did you mean 'num_levels'\?\)$"),
        ({"inner": {"rat": 1}}, r"^f.yaml: x.inner: unknown key 'rat' \(did you mean 'rate'\?\)$"),
        ({"num_levels": "4"}, r"^f.yaml: x.num_levels: expected a valid integer, got '4'$"),
        ({"num_levels": True}, r"^f.yaml: x.num_levels: expected a valid integer, got True$"),
        ({"distance": "l1"}, r"^f.yaml: x.distance: expected 'l2' or 'cosine', got 'l1'$"),
        ({"num_levels": 0}, r"^f.yaml: x: num_levels must be at least 1, got 0$"),
    ],
)
def test_bad_values_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_config(Demo, values, "f.yaml: x")


def test_overrides_set_dotted_keys() -> None:
    document = {"a": {"b": 1}}
    assert apply_overrides(document, ["a.c.d=[1, 2]", "a.b=x"]) == {
        "a": {"b": "x", "c": {"d": [1, 2]}}
    }
    assert document == {"a": {"b": 1}}
    with pytest.raises(ValueError, match=r"expected section\.key=value"):
        apply_overrides({}, ["oops"])


def test_numbers_are_read_as_yaml_1_2_writes_them(tmp_path: Path) -> None:
    texts = {"3e-3": 0.003, "1E4": 1e4, "-2e+1": -20.0, "3": 3, "0.5": 0.5, "e3": "e3", "3e": "3e"}
    for text, value in texts.items():
        assert apply_overrides({}, [f"x={text}"]) == {"x": value}
        (tmp_path / "c.yaml").write_text(f"x: {text}\n")
        assert read_yaml(tmp_path / "c.yaml") == {"x": value}
    assert apply_overrides({}, ["x='3e-3'"]) == {"x": "3e-3"}  # quoted text stays text
