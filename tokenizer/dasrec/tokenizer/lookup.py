"""From SIDs and prefixes of SIDs back to rows.

Shape letters: N rows, L levels, P prefix length.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


class SidLookup:
    """Rows of a code table in the order of their SIDs: every prefix is one range of it."""

    def __init__(self, codes_NL: npt.NDArray[np.integer]) -> None:
        codes = np.asarray(codes_NL)
        self.order_N = np.lexsort(codes.T[::-1])  # stable: equal SIDs by row number
        self.columns = [np.ascontiguousarray(column) for column in codes[self.order_N].T]

    def rows(self, prefix: Sequence[int]) -> npt.NDArray[np.int64]:
        """Rows whose SID starts with `prefix`, by SID and then by row; empty for none.

        Two binary searches a level.

        Raises:
            ValueError: a prefix longer than the SIDs.
        """
        if len(prefix) > len(self.columns):
            raise ValueError(
                f"decode: SIDs have {len(self.columns)} codes, got {len(prefix)}: {list(prefix)}"
            )
        low, high = 0, len(self.order_N)
        for column, code in zip(self.columns, prefix, strict=False):
            part = column[low:high]
            low, high = (
                low + int(np.searchsorted(part, code, "left")),
                low + int(np.searchsorted(part, code, "right")),
            )
        return self.order_N[low:high]
