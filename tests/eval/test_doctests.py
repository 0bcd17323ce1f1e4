import doctest
from types import ModuleType

import pytest

from dasrec.eval import list_metrics, ranking_metrics, report, sid_level, slices


@pytest.mark.parametrize("module", [ranking_metrics, list_metrics, report, sid_level, slices])
def test_the_numbers_in_the_docstrings_are_right(module: ModuleType) -> None:
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0
