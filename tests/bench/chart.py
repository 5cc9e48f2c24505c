"""Bars as SVG: one figure for each contestant, on a scale that begins at zero."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

_WIDTH, _LEFT, _RIGHT, _ROW, _TOP = 720, 230, 90, 26, 46


def bars(title: str, unit: str, rows: Sequence[tuple[str, float, bool]]) -> str:
    """Draw a chart. A row is a label, its figure, and whether it is ours."""
    most = max((figure for _, figure, _ in rows), default=1.0) or 1.0
    height = _TOP + _ROW * len(rows) + 10
    out = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}"'
            f' viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}"'
            ' font-family="system-ui, sans-serif" font-size="13">'
        ),
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="10" y="20" font-size="15" font-weight="600" fill="#1c2733">{escape(title)}</text>',
        f'<text x="{_LEFT}" y="37" font-size="11" fill="#5b6b7a">{escape(unit)}</text>',
    ]
    for n, (label, figure, own) in enumerate(rows):
        y = _TOP + _ROW * n
        length = max(1.0, figure / most * (_WIDTH - _LEFT - _RIGHT))
        colour = "#0b7285" if own else "#adb5bd"
        out += [
            f'<text x="{_LEFT - 8}" y="{y + 16}" text-anchor="end" fill="#1c2733">{escape(label)}</text>',
            f'<rect x="{_LEFT}" y="{y + 3}" width="{length:.1f}" height="{_ROW - 8}" rx="2" fill="{colour}"/>',
            f'<text x="{_LEFT + length + 6:.1f}" y="{y + 16}" fill="#1c2733">{shown(figure)}</text>',
        ]
    return "\n".join([*out, "</svg>"]) + "\n"


def shown(figure: float) -> str:
    """Write a figure as short as it can be read."""
    if figure >= 1000:
        return f"{figure:,.0f}"
    return f"{figure:.1f}" if figure >= 100 else f"{figure:.2f}"
