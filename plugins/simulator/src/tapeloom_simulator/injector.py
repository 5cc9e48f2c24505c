"""Inject faults: count the occasions of each fault, apply it when it is due, and record it."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from .faults import CHANNELS, Fault
from .server_api import Framing
from .truth import InjectedFault

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from .market import SimulatedMarket
    from .server_api import VenueServer, VenueStream
    from .subscriber import Subscriber
    from .truth import Truth

__all__ = ["Injector", "faults_of"]

_SECOND = 1_000_000_000
_CONNECTION_FAULTS = ("disconnect", "server_shutdown")
#: A text, and whether it is sent without the venue's envelope.
Out = tuple[str, bool]


def faults_of(venue: VenueServer) -> Mapping[str, frozenset[str]]:
    """Return the faults that only *venue* has; none if it has no attribute `faults`."""
    own: Mapping[str, frozenset[str]] = getattr(venue, "faults", {})
    return own


class Injector:
    """Decides when the faults of one simulation happen, applies and records them."""

    def __init__(
        self,
        faults: Sequence[Fault],
        market: SimulatedMarket,
        venue: VenueServer,
        truth: Truth,
        seed: int,
    ) -> None:
        self._market, self._venue, self._truth = market, venue, truth
        self._random = random.Random(f"faults {seed}")
        self._own = own = faults_of(venue)
        # With a framing the messages need not be JSON, so only the venue can remove a field.
        self._by_venue = frozenset(_VENUE_ENCODED)
        if isinstance(venue, Framing):
            self._by_venue |= {"missing_fields"}
        self._by_kind: defaultdict[str, list[Fault]] = defaultdict(list)
        for fault in faults:
            self._by_kind[fault.kind].append(fault)
        self._timed = [fault for fault in faults if _is_timed(fault)]
        self._next = {fault: market.epoch + int((fault.at or 0) * _SECOND) for fault in self._timed}
        self._frame_faults = [
            fault for fault in faults
            if fault.kind in (*_FRAME_FAULTS, *_CONNECTION_FAULTS, *own) and fault not in self._timed
        ]  # fmt: skip
        self._occasions: defaultdict[Hashable, int] = defaultdict(int)
        self._done: defaultdict[Hashable, int] = defaultdict(int)
        self._stalled_until: dict[tuple[Subscriber, VenueStream | None], int | None] = {}
        self._held: dict[tuple[Subscriber, VenueStream], list[tuple[int, str]]] = {}
        #: ends a connection: "clean", "abrupt" or "shutdown"
        self.end_connection: Callable[[Subscriber, str], None] = lambda _, __: None

    # --------------------------------------------------------------------------- when a fault is due

    def _is_exhausted(self, fault: Fault, key: Hashable) -> bool:
        done = self._done[id(fault), key if fault.per_stream else None]
        return (bool(fault.count) and done >= fault.count) or self._is_over(fault)

    def _is_over(self, fault: Fault) -> bool:
        """Return whether the market is past the `until` of *fault*."""
        if fault.until is None:
            return False
        return self._market.now >= self._market.epoch + fault.until * _SECOND

    def _is_due(self, fault: Fault, key: Hashable, *, number: int = 0) -> bool:
        """Count an occasion of *fault* and return whether the fault happens at it."""
        if fault.connection is not None and fault.connection != number:
            return False
        if fault.at is not None and self._market.now < self._market.epoch + fault.at * _SECOND:
            return False
        if self._is_exhausted(fault, key):
            return False
        counter_key = (id(fault), key if fault.per_stream else None)
        self._occasions[counter_key] += 1
        since_first = self._occasions[counter_key] - fault.after
        if since_first < 1 or (since_first - 1) % fault.every:
            return False
        return fault.chance >= 1 or self._random.random() < fault.chance

    def _record(
        self,
        fault: Fault,
        key: Hashable,
        detail: str = "",
        number: int = 0,
        stream: VenueStream | None = None,
    ) -> None:
        self._done[id(fault), key if fault.per_stream else None] += 1
        name, symbol = (stream.name, stream.symbol) if stream else ("", fault.symbol)
        self._truth.record_fault(
            InjectedFault(fault.kind, self._market.now, number, name, symbol, detail)
        )

    def fault_due(self, kind: str, number: int = 0, detail: str = "") -> Fault | None:
        """Count an occasion of the faults of one kind and return the fault that is due, if any."""
        for fault in self._by_kind.get(kind, ()):
            if self._is_due(fault, number, number=number):
                self._record(fault, number, detail, number)
                return fault
        return None

    def lingering_seconds(self, number: int) -> float:
        """Return for how many seconds a connection that has ended still counts."""
        fault = self.fault_due("lingering_session", number)
        if fault is None:
            return 0.0
        return 10.0 if fault.seconds is None else fault.seconds

    def max_age_seconds(self, number: int) -> float | None:
        """Return the age in seconds at which a fault ends this connection; None if none does."""
        ages = [
            60.0 if fault.seconds is None else fault.seconds
            for fault in self._by_kind.get("max_age", ())
            if fault.connection in (None, number) and not self._is_exhausted(fault, number)
        ]
        return min(ages, default=None)

    def snapshot_lag(self, differs: Callable[[int], bool]) -> int:
        """Return how many updates the books of a REST response must be stale; 0 if no fault is due.

        *differs* returns whether a response with that lag is different; if not, it is no occasion.
        """
        for fault in self._by_kind.get("stale_snapshot", ()):
            lag = fault.value or 200
            if differs(lag) and self._is_due(fault, None):
                self._record(fault, None, f"{lag} updates behind")
                return lag
        return 0

    def inject_timed(self, followers: Sequence[Subscriber]) -> None:
        """Apply the faults that are due at a time and not on a frame."""
        now = self._market.now
        for fault in self._timed:
            due = self._next[fault]
            if now < due or self._is_over(fault):
                continue
            if fault.count and self._done[id(fault), None] >= fault.count:
                continue
            if fault.kind == "clock_skew_ms":
                skew = fault.value if fault.value is not None else 1500
                self._market.clock_skew_ns = skew * 1_000_000
                self._record(fault, None, f"{skew} ms")
                self._next[fault] = due + fault.every * _SECOND
                continue
            affected = [
                follower for follower in followers if fault.connection in (None, follower.number)
            ]
            if affected:
                self._next[fault] = max(due + fault.every * _SECOND, now)
            for follower in affected:
                self._break_connection(fault, follower, None)
            if affected:
                # It counts as one fault, however many connections it ended.
                self._done[id(fault), None] += 1 - len(affected)

    # ------------------------------------------------------------------------------ on data frames

    def corrupt(self, follower: Subscriber, stream: VenueStream, text: str) -> list[Out]:
        """Return the texts to send in place of *text*, after all faults that are due."""
        if self._stalled_until and self._is_stalled(follower, stream):
            return []  # a frame that is not sent is no occasion for another fault
        unchanged: list[Out] = [(text, False)]
        out = unchanged
        for fault in self._frame_faults:
            if not self._applies_to(fault, stream) or self._is_exhausted(fault, (follower, stream)):
                continue
            if out is not unchanged and fault.kind not in _CONNECTION_FAULTS:
                # Each frame is corrupted by one fault only, so that the recorded detail is exact.
                self._occasions[id(fault), (follower, stream) if fault.per_stream else None] += 1
            else:
                out = self._apply(fault, follower, stream, text, out)
        if self._held:
            out = out + self._release((follower, stream))
        if self._stalled_until and self._is_stalled(follower, stream):
            return []
        return out

    def _applies_to(self, fault: Fault, stream: VenueStream) -> bool:
        """Return whether *fault* applies to *stream*."""
        if fault.symbol and fault.symbol != stream.symbol:
            return False
        if fault.channel:
            return fault.channel in (stream.channel, stream.channel.partition(":")[0])
        channels = CHANNELS.get(fault.kind) or self._own.get(fault.kind)
        if not channels:
            return True
        if fault.kind == "drop_diff":
            return stream.channel in channels
        return stream.channel in channels or stream.channel.partition(":")[0] in channels

    def _apply(
        self, fault: Fault, follower: Subscriber, stream: VenueStream, text: str, out: list[Out]
    ) -> list[Out]:
        key, number = (follower, stream), follower.number
        if fault.kind in self._own:
            # The venue is called only when the fault is due, since the call may have other effects.
            if self._is_due(fault, key, number=number):
                corrupted = self._venue.corrupt(fault.kind, stream, text)
                if corrupted is not None:
                    self._record(fault, key, "", number, stream)
                    return [(item, False) for item in corrupted]
                self._occasions[id(fault), key if fault.per_stream else None] -= 1
            return out
        if fault.kind in self._by_venue:
            corrupted = self._venue.corrupt(fault.kind, stream, text)
            if corrupted is None or not self._is_due(fault, key, number=number):
                return out
            self._record(fault, key, "", number, stream)
            return [(item, False) for item in corrupted]
        if not self._is_due(fault, key, number=number):
            return out
        if fault.kind in _CONNECTION_FAULTS:
            self._break_connection(fault, follower, stream)
            return out
        return self._corrupt_frame(fault, follower, stream, text)

    def _corrupt_frame(
        self, fault: Fault, follower: Subscriber, stream: VenueStream, text: str
    ) -> list[Out]:
        detail, out = "", [(text, False)]
        match fault.kind:
            case "drop_diff":
                detail, out = text, []
            case "dup_trade":
                detail, out = text, [(text, False), (text, False)]
            case "late_trade" | "reorder":
                frames = 1 if fault.kind == "reorder" else fault.value or 3
                self._held.setdefault((follower, stream), []).append((frames + 1, text))
                detail, out = text, []
            case "malformed_json":
                out = [(text[: len(text) * 2 // 3], True)]
            case "plain_text_frame":
                out = [("upstream connect error or disconnect", True), (text, False)]
            case "missing_fields":
                corrupted = self._remove_field(text)
                detail, out = corrupted, [(corrupted, False)]
            case "silent_stall":
                until = (
                    None
                    if fault.seconds is None
                    else self._market.now + int(fault.seconds * _SECOND)
                )
                self._stalled_until[(follower, stream if fault.how != "all" else None)] = until
                detail = fault.how or "stream"
        self._record(fault, (follower, stream), detail, follower.number, stream)
        return out

    def _break_connection(
        self, fault: Fault, follower: Subscriber, stream: VenueStream | None
    ) -> None:
        how = fault.how or "clean" if fault.kind == "disconnect" else "shutdown"
        self._record(fault, (follower, stream), how, follower.number)
        self.end_connection(follower, how)

    def _remove_field(self, text: str) -> str:
        """Remove a random field, but none that identifies the message."""
        found: Any = json.loads(text)
        inner = found
        while isinstance(inner, list) or any(isinstance(v, dict) for v in inner.values()):
            inner = (
                inner[0]
                if isinstance(inner, list)
                else next(v for v in inner.values() if isinstance(v, dict))
            )
        keys = [key for key in inner if key not in ("e", "E", "s", "M", "st", "ps", "nq", "X")]
        del inner[keys[self._random.randrange(len(keys))]]
        return json.dumps(found, separators=(",", ":"))

    def _release(self, key: tuple[Subscriber, VenueStream]) -> list[Out]:
        waiting = [(frames - 1, text) for frames, text in self._held.pop(key, ())]
        if still := [(frames, text) for frames, text in waiting if frames > 0]:
            self._held[key] = still
        return [(text, False) for frames, text in waiting if frames <= 0]

    def _is_stalled(self, follower: Subscriber, stream: VenueStream) -> bool:
        keys: tuple[tuple[Subscriber, VenueStream | None], ...] = (
            (follower, stream),
            (follower, None),
        )
        for key in keys:
            if key in self._stalled_until:
                until = self._stalled_until[key]
                if until is None or self._market.now < until:
                    return True
                del self._stalled_until[key]
        return False

    def misroute(self, follower: Subscriber, stream: VenueStream) -> None:
        """Stall a new subscription for ever if a fault "misroute_silence" is due."""
        for fault in self._by_kind.get("misroute_silence", ()):
            if self._applies_to(fault, stream) and self._is_due(
                fault, (follower, stream), number=follower.number
            ):
                self._stalled_until[(follower, stream)] = None
                self._record(fault, (follower, stream), "", follower.number, stream)

    def forget(self, follower: Subscriber) -> None:
        """Drop the state of a connection that has ended."""
        for stalled in [key for key in self._stalled_until if key[0] is follower]:
            del self._stalled_until[stalled]
        for held in [key for key in self._held if key[0] is follower]:
            del self._held[held]


_VENUE_ENCODED = ("crossed_book", "empty_side", "huge_batch", "missing_final_kline")
_FRAME_FAULTS = (
    *_VENUE_ENCODED, "drop_diff", "dup_trade", "late_trade", "malformed_json", "missing_fields",
    "plain_text_frame", "reorder", "silent_stall",
)  # fmt: skip


def _is_timed(fault: Fault) -> bool:
    """Return whether *fault* is due at a time and not on a frame."""
    if fault.kind == "clock_skew_ms":
        return True
    return (
        fault.kind in _CONNECTION_FAULTS
        and fault.at is not None
        and not fault.symbol
        and not fault.channel
    )
