"""The life of one connection: dial, subscribe, hear, beat, end; and again, after a pause.

What a session must see to: every subscription is sent at the pace that the venue allows and answered
within its time; a connection that has gone dead is noticed; one that grows old is replaced; and what
was missed between two connections is announced by a `Gap`, before the first event after the hole.
"""

from __future__ import annotations

from .backoff import Backoff
from .holes import Known
from .life import Session
from .source import SourceSession

__all__ = ["Backoff", "Known", "Session", "SourceSession"]
