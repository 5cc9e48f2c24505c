"""The output "table": prices, bars and rates as a live table in a terminal, or as plain lines elsewhere.

`state` keeps what is shown of each symbol, `layout` makes lines of it for a width and a height, and `screen`
writes them.
"""

from __future__ import annotations

from .screen import Table

__all__ = ["Table"]
