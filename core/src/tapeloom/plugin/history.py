"""A venue's past, over REST: what can be wanted of it, how it is asked for, and how answers are read.

Pure, no I/O: core sends what is to be sent, at the venue's pace.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

from attrs import field, frozen

from tapeloom.errors import RequestRefused
from tapeloom.events import Event
from tapeloom.symbols import Instrument
from tapeloom.units import Rate


@frozen
class HistoryQuery:
    """What a stage asks of a venue's history: a book, trades or bars of one symbol.

    The answer comes as events, through the stages, like anything else. `since` and `until` are
    times in ns; `after_id` is the id of the last trade that is known. Where `before_id` is given as well,
    the id of the first one after a hole, the hole is filled: what was missed comes with the origin
    "backfill", and then a Gap with the verdict.
    """

    kind: Literal["book", "trades", "bars"]
    symbol: str
    channel: str = ""
    interval: str = ""
    since: int | None = None
    until: int | None = None
    after_id: int | str | None = None
    before_id: int | str | None = None


@frozen(kw_only=True)
class Request:
    """A call over REST: a GET, or a POST where it has a `body`, which is JSON.

    `weight` is what it costs of the budget `rate`, shared on one host.
    """

    url: str
    body: bytes = b""
    weight: int = 1
    rate: Rate | None = None
    headers: Mapping[str, str] = field(factory=dict, repr=False)
    paged: bool = False  #: all between two times or ids, oldest first: asking on brings the rest
    page_end: int | None = None  #: the time at which a ranged answer ends, where that is too early


class History(Protocol):
    """The venue's REST language: pure, no I/O."""

    def listing_request(self) -> Request | None:
        """Ask what the venue lists; None where it has no such list."""
        ...

    def request(self, want: HistoryQuery) -> Request | None:
        """Ask for *want*; None where the venue cannot give it."""
        ...

    def read_listing(self, body: bytes) -> list[Instrument]:
        """Read the answer to `listing_request`.

        Raises Denied where it is a refusal, ValueError where it cannot be read.
        """
        ...

    def read_answer(self, request: Request, body: bytes, recv: int) -> list[Event]:
        """Read the answer to a *request*, whoever made it: a tape has its address and body alone.

        Raises Denied where it is a refusal, though the HTTP status was 200, ValueError where it cannot
        be read. Returns nothing for an address it does not know.
        """
        ...

    def refusal_reason(self, status: int, body: bytes) -> str | RequestRefused:
        """Return the venue's own words for an HTTP status that is not 200, or nothing.

        A `RequestRefused` says more: whether to ask again, and when.
        """
        ...
