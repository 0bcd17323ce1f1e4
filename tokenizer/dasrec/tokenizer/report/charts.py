"""Code usage as inline SVG.

Shape letters: K codebook size, B bars.
"""

import numpy as np
import numpy.typing as npt

WIDTH, HEIGHT = 320, 110
LEFT, TOP, BOTTOM = 34, 8, 18
MOST_BARS = 256


def usage_chart(count_K: npt.NDArray[np.integer], highest: int, summary: str) -> str:
    """Rows per codeword, the most used first, with a line where even use would be.

    Args:
        count_K: rows that have each code.
        highest: count at the top of the axis, so that charts side by side compare.
        summary: what a reader who does not see the picture is told; trusted text.
    """
    bars_B = usage_bars(count_K)
    highest = max(highest, 1)
    right, bottom = WIDTH - 2, HEIGHT - BOTTOM
    x = np.linspace(LEFT, right, len(bars_B) + 1)
    y = bottom - bars_B / highest * (bottom - TOP)
    steps = "".join(f"V{at:.1f}H{to:.1f}" for at, to in zip(y, x[1:], strict=True))
    even = bottom - float(count_K.mean()) / highest * (bottom - TOP)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><title>{summary}</title>'
        f'<path class="bars" d="M{LEFT} {bottom}{steps}V{bottom}Z"/>'
        f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{right}"/>'
        f'<path class="even" d="M{LEFT} {even:.1f}H{right}"/>'
        f'<text x="{LEFT - 4}" y="{TOP + 6}" text-anchor="end">{highest}</text>'
        f'<text x="{LEFT - 4}" y="{bottom}" text-anchor="end">0</text>'
        f'<text x="{LEFT}" y="{HEIGHT - 5}">most used</text>'
        f'<text x="{right}" y="{HEIGHT - 5}" text-anchor="end">least used of {len(count_K)}</text>'
        "</svg>"
    )


def usage_bars(count_K: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """Counts in falling order; more than 256 are averaged into 256 bars."""
    ordered = np.sort(count_K)[::-1].astype(np.float64)
    if len(ordered) <= MOST_BARS:
        return ordered
    return np.array([part.mean() for part in np.array_split(ordered, MOST_BARS)])
