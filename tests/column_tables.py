"""Write the tables of docs/reference/columns.md: the columns of every event class, from the code.

python tests/column_tables.py
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tapeloom.events import BY_TYPE
from tapeloom_columns import schema
from tapeloom_columns.fields import fields

PAGE = Path(__file__).parents[1] / "docs/reference/columns.md"
#: What stands between these is made here.
SECTION = re.compile(r"(<!-- columns: [^\n]*-->\n).*?(<!-- /columns -->)", re.DOTALL)


def tables() -> Iterator[str]:
    """Yield the lines of the tables."""
    own = [cls for cls in BY_TYPE.values() if cls.__module__.startswith("tapeloom.events.")]
    for event_class in own:
        arrow = schema(event_class)
        yield f"\n### {event_class.__name__}\n\n| column | type | field |\n|---|---|---|"
        for field in fields(event_class):
            for column in field.columns:
                kind = str(arrow.field(column).type).replace("|", "\\|")
                yield f"| `{column}` | `{kind}` | `{field.name}`{', optional' * field.optional} |"


def made(page: str) -> str:
    """Return a page with the tables as the code has them today."""
    text = "\n".join(tables()).lstrip("\n")
    return SECTION.sub(lambda match: f"{match[1]}\n{text}\n\n{match[2]}", page)


if __name__ == "__main__":
    PAGE.write_text(made(PAGE.read_text("utf-8")), "utf-8")
