"""What reaches a store while the process that fills it is killed again and again.

`days` runs a market, and a stream of it as a process of its own; `stores` has a store of each sink, and
reads it back with a client that is not the sink's.
"""
