"""Draw architecture.svg, the picture of the data flow: ``python docs/explanation/architecture.py``.

A test in tests/test_docs.py compares the committed picture with what `draw` returns.
"""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

#: Size of the picture in px.
WIDTH, HEIGHT = 700, 760
#: Colours: background, text, secondary text, lines, and the fill of each kind of box.
PAPER, INK, GREY, LINE = "#ffffff", "#1c2733", "#44525f", "#5b6b7a"
CORE, PLUGIN, OUTSIDE = "#e3f2f5", "#fdf1dc", "#eef0f2"


def box(x: int, y: int, width: int, height: int, fill: str, title: str, *lines: str) -> str:
    """Return a rectangle with a bold title and lines of text, all centred."""
    middle = x + width // 2
    top = y + (height - 17 * len(lines)) // 2 + 5
    out = [
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="5" fill="{fill}" stroke="{LINE}"/>',
        f'<text x="{middle}" y="{top}" text-anchor="middle" font-weight="600" fill="{INK}">{escape(title)}</text>',
    ]
    out += [
        f'<text x="{middle}" y="{top + 17 * n}" text-anchor="middle" font-size="12" fill="{INK}">'
        f"{escape(line)}</text>"
        for n, line in enumerate(lines, 1)
    ]
    return "\n".join(out)


def arrow(*points: tuple[int, int], both: bool = False) -> str:
    """Return a line through *points* with a head at its end, or at both ends."""
    path = " ".join(f"{x},{y}" for x, y in points)
    start = ' marker-start="url(#head)"' if both else ""
    return (
        f'<polyline points="{path}" fill="none" stroke="{LINE}" stroke-width="1.5"'
        f' marker-end="url(#head)"{start}/>'
    )


def label(x: int, y: int, text: str, anchor: str = "start") -> str:
    """Return small text, such as the name of what an arrow carries."""
    return (
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="12" fill="{GREY}">'
        f"{escape(text)}</text>"
    )


def legend(x: int, y: int, fill: str, text: str) -> str:
    """Return a small square and what its colour means."""
    square = f'<rect x="{x}" y="{y}" width="14" height="14" rx="2" fill="{fill}" stroke="{LINE}"/>'
    return f"{square}\n{label(x + 20, y + 12, text)}"


def draw() -> str:
    """Return the picture as SVG."""
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}"'
            f' viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="How data flows from the venue'
            ' to the consumers" font-family="system-ui, sans-serif" font-size="14">'
        ),
        (
            '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7"'
            ' markerHeight="7" orient="auto-start-reverse">'
            f'<path d="M 0 0 L 10 5 L 0 10 z" fill="{LINE}"/></marker></defs>'
        ),
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="{PAPER}"/>',
        # The way from the venue to the consumers, from top to bottom.
        box(220, 12, 464, 40, OUTSIDE, "venue"),
        arrow((330, 52), (330, 92)),
        label(338, 76, "bytes"),
        box(220, 92, 220, 62, CORE, "_network", "reads the socket,", "decodes WebSocket frames"),
        arrow((330, 154), (330, 194)),
        label(338, 178, "frames of one read"),
        box(
            220,
            194,
            220,
            62,
            CORE,
            "_connection: frame_intake",
            "stamps recv,",
            "copies frames to _tape",
        ),
        arrow((330, 256), (330, 296)),
        label(338, 280, "Frames"),
        box(220, 296, 220, 62, PLUGIN, "parse", "hook of the venue's plugin,", "frames to events"),
        arrow((330, 358), (330, 398)),
        label(338, 382, "events"),
        box(
            220,
            398,
            220,
            62,
            CORE,
            "_connection: supervisor",
            "reconnects, replaces,",
            "subscribes again",
        ),
        arrow((330, 460), (330, 500)),
        label(338, 484, "events, with each Gap"),
        box(
            220,
            500,
            220,
            62,
            PLUGIN,
            "stages",
            "called by _stream: pipeline,",
            "in the order of the stack",
        ),
        arrow((330, 562), (330, 602)),
        label(338, 586, "one batch"),
        box(220, 602, 220, 44, CORE, "_stream: queues", "one for each consumer"),
        arrow((330, 646), (330, 686)),
        arrow((230, 646), (118, 686)),
        arrow((430, 646), (577, 686)),
        box(16, 686, 204, 34, OUTSIDE, "callbacks"),
        box(234, 686, 192, 34, OUTSIDE, "async for"),
        box(440, 686, 244, 34, OUTSIDE, "sinks"),
        # What joins from the left: replies and gaps.
        arrow((196, 327), (220, 327), both=True),
        box(
            16,
            286,
            180,
            82,
            PLUGIN,
            "codec",
            "reads other frames:",
            "acknowledgement, refusal,",
            "notice, pong; gives Status",
        ),
        arrow((196, 429), (220, 429), both=True),
        box(
            16,
            388,
            180,
            82,
            CORE,
            "_gaps",
            "last_seen, gap_tracker:",
            "a Gap before the next",
            "event of a subscription",
        ),
        # What joins from the right: tapes and REST.
        arrow((440, 225), (492, 225)),
        box(
            492, 184, 146, 82, CORE, "_tape", "recorder,", "flight_recorder;", "replay reads a tape"
        ),
        arrow((565, 266), (565, 327), (440, 327)),
        label(450, 320, "replayed frames"),
        arrow((440, 419), (492, 419)),
        label(484, 410, "gap", "end"),
        box(
            492,
            388,
            192,
            82,
            CORE,
            "_history",
            "query_queue, rest_client:",
            "fetches over REST; gap_fill",
            "selects what was missed",
        ),
        arrow((662, 388), (662, 52), both=True),
        label(654, 110, "REST", "end"),
        arrow((588, 470), (588, 531), (440, 531), both=True),
        label(450, 523, "backfilled events"),
        label(450, 549, "queries, such as for a snapshot"),
        # Colours.
        legend(16, 734, CORE, "core"),
        legend(100, 734, PLUGIN, "plugin"),
        legend(190, 734, OUTSIDE, "outside, or user code"),
    ]
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(draw(), "utf-8")
