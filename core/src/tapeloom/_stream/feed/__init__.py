"""Runs one feed: `runner` starts and stops it, `connections` has its connections.

`monitor` checks it once a second; `replay` and `fact_replay` run it from a recording.
"""
