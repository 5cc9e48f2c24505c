"""What the contract of a sink needs: events to write, faults, processes to kill, and comparisons.

`events` makes the events, `rows` compares them with what the store has, `faults` makes a sink fail as a
remote store does. `store` is one new store of the sink under test; `processes` starts, kills and restarts
`child`, which writes to that store.
"""
