"""The life of a connection: dial, log in, subscribe, read, watch, end, reconnect after a pause.

Subscription messages are sent within the venue's rate limit and must be acknowledged in time. A
dead connection is detected, an old one is replaced. What was missed between two connections is
reported as a `Gap` before the first event after it.

`supervisor` keeps one endpoint connected. `handover` holds the current connection and replaces it.
`connection` is one connection, made of parts: `frame_intake`, where its frames enter; `sender`, which
subscribes; `keep_alive`, which finds that it is dead; `replies`, which says what the venue's replies
mean; `subscriptions`, which matches them with what was sent. What does no I/O is in classes of its own
that are given the time: `Deadlines`, `Replies`, `Subscriptions`, `Handover`, `StallDetector`.

`source_supervisor` does the same for a plugin with its own connection. Frames arrive from `_network`,
events go on to `_stream`.
"""
