"""Gaps: `gap_tracker` makes them, `last_seen` holds what came before, `gap_fill` fills them.

`open_gap` has those without a known end.
"""
