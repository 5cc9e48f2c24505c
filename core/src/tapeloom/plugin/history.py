"""What a venue's adapter says about REST: queries, requests, and how answers are read.

Nothing here does I/O: core sends the requests, within the venue's rate limits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

from attrs import field, frozen

from tapeloom.errors import RequestRefused, masked
from tapeloom.events import Event
from tapeloom.symbols import Instrument
from tapeloom.units import Rate


@frozen
class HistoryQuery:
    """A query for the past of one symbol: its book, trades or bars.

    The answer arrives as events and passes the stages like live data. Gaps are not filled by queries
    but by `Feed.gaps`.
    """

    kind: Literal["book", "trades", "bars"]  #: What is queried.
    symbol: str  #: The unified symbol.
    channel: str = ""  #: The channel that the events belong to.
    interval: str = ""  #: The length of bars, such as "1m".
    since: int | None = None  #: The earliest time, in ns; None for no limit.
    until: int | None = None  #: The latest time, in ns; None for no limit.
    after_id: int | None = None  #: The id after which trades are wanted, where ids are numbers.


@frozen(kw_only=True)
class Request:
    """A REST request: a GET, or a POST if it has a `body`."""

    #: The whole address, with the query string.
    url: str = field(repr=lambda url: repr(masked(url)))
    body: bytes = b""  #: The JSON body; empty makes it a GET.
    weight: int = 1  #: How much of the rate limit `rate` the request uses.
    rate: Rate | None = None  #: The rate limit, shared by all feeds on the host; None for none.
    headers: Mapping[str, str] = field(factory=dict, repr=False)  #: Additional HTTP headers.
    #: Whether the answer is a page of what lies between two times or ids, oldest first; requesting again from
    #: its end brings the rest.
    paged: bool = False
    #: The time in ns where the page ends, if before the end of the query.
    page_end: int | None = None


class History(Protocol):
    """The venue's REST API, as pure functions without I/O."""

    def listing_request(self) -> Request | None:
        """Return the request for the venue's list of instruments; None if it has none."""
        ...

    def request(self, query: HistoryQuery, /) -> Request | None:
        """Return the request that answers *query*; None if the venue cannot answer it."""
        ...

    def read_listing(self, body: bytes) -> list[Instrument]:
        """Parse the answer to `listing_request`.

        Raises RequestRefused if the answer is a refusal, ValueError if it cannot be parsed.
        """
        ...

    def read_answer(self, request: Request, body: bytes, recv: int) -> list[Event]:
        """Parse the answer to a *request*; a request from a recording has only its `url` and `body`.

        Returns nothing for an unknown address. Raises RequestRefused if the answer is a refusal although
        its HTTP status was 200, ValueError if it cannot be parsed.
        """
        ...

    def refusal_reason(self, status: int, body: bytes) -> str | RequestRefused:
        """Return the venue's reason for an HTTP status other than 200; empty if it gave none.

        Core calls it for REST requests and for refused WebSocket handshakes; without a reason it shows the
        text of the body. Return (do not raise) a `RequestRefused` to say also whether and when to try again.
        """
        ...
