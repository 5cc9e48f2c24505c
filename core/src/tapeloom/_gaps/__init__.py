"""Who makes a Gap: `gap_tracker`. `last_seen` knows what came before, `gap_fill` what history gives."""
