"""Asks the event loop for a sign of life, from another thread."""

from __future__ import annotations

import threading
import time

from anyio import from_thread
from anyio.lowlevel import EventLoopToken

#: Seconds that the event loop has for an answer.
_ANSWER_SECONDS = 5.0


class LoopCheck:
    """Asks the event loop of *token*. At most one thread waits for it at a time."""

    def __init__(self, token: EventLoopToken, answer_seconds: float = _ANSWER_SECONDS) -> None:
        self._token = token
        self._answer_seconds = answer_seconds
        self._lock = threading.Lock()
        self._answered: threading.Event | None = None
        self._asked_at = 0.0

    def silent_seconds(self) -> float | None:
        """Return for how long the event loop has not answered; None if it answers now."""
        with self._lock:
            answered = self._answered
            if answered is None or answered.is_set():
                answered = self._answered = threading.Event()
                self._asked_at = time.monotonic()
                threading.Thread(target=self._ask, args=[answered], daemon=True).start()
            asked_at = self._asked_at
        left = asked_at + self._answer_seconds - time.monotonic()
        if answered.wait(max(left, 0.0)):
            return None
        return time.monotonic() - asked_at

    def _ask(self, answered: threading.Event) -> None:
        try:
            from_thread.run_sync(answered.set, token=self._token)
        except RuntimeError:
            return  # the event loop has ended: it will not answer
