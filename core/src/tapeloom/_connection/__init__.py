"""One connection's life: dial, log in, subscribe, read, watch, end; and again, after a pause.

Every subscription is sent at the pace that the venue allows and answered within its time; a connection
that is dead is noticed; one that grows old is replaced; and what was missed between two connections is
announced by a `Gap`, before the first event after it.

`supervisor` keeps one connection after another alive, `connection` is one of them, `frame_intake` what
they share as they read. `source_supervisor` does the same for a venue that brings its own connection.
"""
