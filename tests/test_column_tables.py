"""The page of columns has the columns of every event class as the code has them."""

from __future__ import annotations

from typing import get_args

import column_tables
from tapeloom.events import Event


def test_the_tables_of_columns_are_up_to_date() -> None:
    written = column_tables.PAGE.read_text("utf-8")

    assert column_tables.made(written) == written, "run: python tests/column_tables.py"
    assert written.count("\n### ") == len(get_args(Event)) - 1  # all but the base
