"""Gaps: `gap_tracker` makes them, `last_seen` holds what came before, `gap_fill` fills them."""
