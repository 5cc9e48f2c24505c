"""An adapter whose requests do not advance: its defect is named, and nothing is asked for ever."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anyio
import pytest
import tapeloom
from attrs import evolve
from tapeloom import Event, FeedSpec, Gap, Registry, Stack, Status, Trade
from tapeloom._history.paging import paging_defect
from tapeloom.plugin import Endpoint, HistoryQuery, Request
from tapeloom_testing import FakeVenue, FakeWire, WireEnd

SECOND = 1_000_000_000
QUERY = HistoryQuery("trades", "BTC/USD", "trades", since=5 * SECOND, until=60 * SECOND)


def request(**fields: Any) -> Request:
    return Request(url="https://acme.example/trades", paged=True, **fields)


def later(seconds: float, **fields: Any) -> HistoryQuery:
    return evolve(QUERY, since=round((5 + seconds) * SECOND), **fields)


@pytest.mark.parametrize(
    ("query", "asked", "named"),
    [
        (QUERY, request(page_end=5 * SECOND), "Request.page_end must be later"),
        (QUERY, request(page_end=4 * SECOND), "Request.page_end must be later"),
        (QUERY, request(page_end=5 * SECOND + 1), None),
        (QUERY, request(), None),
        (later(1), request(), "must depend on HistoryQuery.since"),
        (later(1), evolve(request(), url="https://acme.example/trades?from=6"), None),
        (later(1), evolve(request(), body=b'{"from": 6}'), None),
        (later(1), evolve(request(), paged=False), None),  # always the newest trades
        (later(0.9), request(), None),  # within the resolution of the venue's times
        (later(-1), request(), None),  # another gap
        (evolve(QUERY, since=None), request(page_end=5), None),
    ],
)
def test_a_request_that_does_not_advance_is_a_named_defect(
    query: HistoryQuery, asked: Request, named: str | None
) -> None:
    defect = paging_defect(query, asked, (QUERY, request()))

    assert (defect is None) if named is None else (named in str(defect))
    assert paging_defect(later(1), request(), None) is None


class Venue:
    """Trade n at second n. The first connection breaks after trade 5, the next begins with 60."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.connection = 0

    def get(self, path: str, default: Any = None) -> Any:
        if path == "/symbols":
            return 200, {}, b'["BTC/USD"]'
        self.asked.append(path)
        return 200, {}, json.dumps([row(n) for n in range(6, 9)]).encode()

    async def serve(self, end: WireEnd, endpoint: Endpoint) -> None:
        end.push(json.dumps({"ok": json.loads(await end.take())["id"]}))
        self.connection += 1
        for n in (range(1, 6), range(60, 63))[self.connection > 1]:
            end.push(json.dumps(row(n)))
        if self.connection == 1:
            end.close(1006)
        await anyio.sleep_forever()


def row(n: int) -> dict[str, Any]:
    return {"s": "BTCUSD", "t": n * SECOND, "p": "1", "q": "1", "i": n}


def ends_where_it_begins(query: HistoryQuery, sent: Request) -> Request:
    return evolve(sent, url=sent.url + "&page=1", page_end=query.since)


def ignores_the_query(query: HistoryQuery, sent: Request) -> Request:
    return evolve(sent, url=sent.url.partition("&")[0])


@pytest.mark.parametrize(
    ("defect", "named", "filled"),
    [(ends_where_it_begins, "Request.page_end", 0), (ignores_the_query, "HistoryQuery.since", 3)],
)
async def test_in_a_stream_the_defect_is_told_and_the_rest_goes_on(
    registry: Registry, defect: Callable[[HistoryQuery, Request], Request], named: str, filled: int
) -> None:
    source = Venue()
    venue = FakeVenue(lambda client: anyio.sleep_forever(), http=source)  # type: ignore[arg-type]
    events: list[Event] = []
    async with venue.serve():
        stack = Stack(
            feeds=(FeedSpec("acme", ["BTC/USD"], ["trades"]),),
            venues={"acme": {"rest": venue.url("http"), "past_trades": True}},
        )
        stream = tapeloom.open(stack, registry=registry, dial=FakeWire(source.serve).dial, seed=1)
        made = stream.plans[0].history
        assert made is not None
        build = made.request
        made.request = lambda query: defect(query, build(query))  # type: ignore[method-assign, arg-type]
        with anyio.fail_after(20):
            async with stream:
                async for event in stream:
                    events.append(event)
                    ended = any(isinstance(e, Gap) and e.state != "open" for e in events)
                    if ended and 62 in {e.id for e in events if isinstance(e, Trade)}:
                        break
    failed = [e.detail for e in events if isinstance(e, Status) and e.state == "request_failed"]
    gaps = [event for event in events if isinstance(event, Gap)]
    fetched = [e.id for e in events if isinstance(e, Trade) and e.origin == "backfill"]

    assert len(failed) == 1
    assert "defect of the adapter" in failed[0]
    assert named in failed[0]
    assert len(source.asked) <= 2
    assert fetched == [6, 7, 8][:filled]
    assert (gaps[-1].state, gaps[-1].missing) == (
        ("partial", 51) if filled else ("unrecoverable", 54)
    )
