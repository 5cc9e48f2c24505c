"""Draw table.svg, the picture of the live table: ``python docs/tutorial/table.py``.

It runs ``tapeloom demo`` in a terminal of its own and draws what is on the screen before the end.
"""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import sys
from html import escape
from pathlib import Path

COLUMNS, LINES = 120, 18
#: Size of a character, and of the margin, in pixels.
WIDTH, HEIGHT, MARGIN = 8.4, 18, 16
BACKGROUND, TEXT = "#16181d", "#d8dee9"
STYLES = {"1": 'font-weight="bold"', "2": 'fill="#8b93a3"', "31": 'fill="#e5737f"', "32": 'fill="#8ac48a"'}  # fmt: skip
SPAN = re.compile(r"\x1b\[(\d+)m(.*?)\x1b\[0m|([^\x1b]+)")


def screen(seconds: float = 12) -> list[str]:
    """Run the demo in a terminal; return the lines of its last drawing before the end, with their styles."""
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": str(COLUMNS), "LINES": str(LINES)}
    environment.pop("NO_COLOR", None)
    ours, theirs = pty.openpty()
    demo = [sys.executable, "-m", "tapeloom", "demo", "--for", str(seconds)]
    process = subprocess.Popen(demo, stdout=theirs, stderr=subprocess.DEVNULL, env=environment)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # reading the end of a terminal is an error
        while part := os.read(ours, 65536):
            shown += part
    os.close(ours)
    if code := process.wait():
        raise SystemExit(f"the demo ended with the exit code {code}")
    drawings = shown.decode().replace("\r\n", "\n").split("\x1b[H")[1:]
    last = [drawing for drawing in drawings if "ended feed" not in drawing][-1]
    return last.split("\x1b[K\n")[:-1]


def draw(lines: list[str]) -> str:
    """Return the SVG of *lines*."""
    width, height = COLUMNS * WIDTH + 2 * MARGIN, len(lines) * HEIGHT + 2 * MARGIN
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" role="img"'
            ' font-family="monospace" font-size="14" xml:space="preserve">'
        ),
        "<title>The live table of tapeloom demo</title>",
        f'<rect width="100%" height="100%" rx="6" fill="{BACKGROUND}"/>',
    ]
    for number, line in enumerate(lines, 1):
        column, y = 0, MARGIN + number * HEIGHT - 5
        for style, styled, plain in SPAN.findall(line):
            text = styled or plain
            for word in re.finditer(r"\S+", text):  # a viewer may join spaces
                x, length = MARGIN + (column + word.start()) * WIDTH, len(word[0]) * WIDTH
                fill = STYLES.get(style, f'fill="{TEXT}"')
                fill += "" if "fill" in fill else f' fill="{TEXT}"'
                parts.append(
                    f'<text x="{x:.1f}" y="{y}" textLength="{length:.1f}" {fill}>{escape(word[0])}</text>'
                )
            column += len(text)
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(draw(screen()), "utf-8")
