import doctest
from types import ModuleType

import pytest

from dasrec.eval import (
    list_metrics,
    list_values,
    ranking_metrics,
    report,
    sid_level,
    significance,
    slices,
    tables,
)


@pytest.mark.parametrize(
    "module",
    [list_metrics, list_values, ranking_metrics, report, sid_level, significance, slices, tables],
)
def test_the_numbers_in_the_docstrings_are_right(module: ModuleType) -> None:
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0
