"""The life of a connection: dial, log in, subscribe, read, watch, end, reconnect after a pause.

Subscription messages are sent within the venue's rate limit and must be acknowledged in time. A
dead connection is detected, an old one is replaced. What was missed between two connections is
reported as a `Gap` before the first event after it.

`supervisor` keeps one endpoint connected, `connection` is one of its connections, `frame_intake`
holds the parser that they share. `source_supervisor` does the same for a plugin with its own
connection. Frames arrive from `_network`, events go on to `_stream`.
"""
