"""Sinks: takes the events of a queue to a store, each one once.

`runner` empties the queue of one sink, `observed` is that of a sink which keeps nothing; `writer` opens the sink, writes, and tries again; `spool` keeps
events on disk until they are stored, in the form of `spool_format`; `positions` says where a sink stands,
so that the feeds continue from there after a restart.
"""
