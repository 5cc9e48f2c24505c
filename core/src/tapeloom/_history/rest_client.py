"""Sends what is asked over REST: at the pace of the venue's budget, tried again where that may help."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import httpx
import structlog

from tapeloom._compose.plan import FeedPlan
from tapeloom._runtime.backoff import Backoff
from tapeloom._runtime.rate_limits import RateLimit, RateLimits
from tapeloom._runtime.taps import FrameTap
from tapeloom.errors import ConnectionFailed, FeedError, RequestFailed, RequestRefused, Throttled
from tapeloom.plugin import Request
from tapeloom.plugin.transports import check_headers, dial_error, is_rate_limited, throttled
from tapeloom.symbols import Instrument

log = structlog.get_logger()

T = TypeVar("T")

_ATTEMPTS = 5


class RestClient:
    """Fetches the answers of one feed's venue, and reads them."""

    def __init__(
        self,
        plan: FeedPlan,
        client: httpx.AsyncClient,
        budgets: RateLimits,
        taps: Sequence[FrameTap] = (),
    ) -> None:
        self._plan = plan
        self._client = client
        self._budgets = budgets
        self._taps = taps

    async def read(
        self, request: Request, read: Callable[[bytes], list[T]], patience: float = math.inf
    ) -> list[T]:
        """Return what *read* makes of the answer, asking again where the venue says that it may help.

        Raises Denied, another ValueError, or what `fetch` raises.
        """
        clock, budget = self._plan.feed.clock, self._budget(request)
        last = clock.monotonic() + patience
        for attempt in range(1, _ATTEMPTS + 1):
            body = await self.fetch(request, patience=last - clock.monotonic())
            try:
                return read(body)
            except RequestRefused as denied:
                pause = denied.retry_after_seconds
                if attempt == _ATTEMPTS or pause is None or clock.monotonic() + pause > last:
                    raise
                log.warning("request_failed", feed=self._plan.feed.name, reason=denied.reason)
                if budget is not None:
                    budget.pause(pause)
                else:
                    await clock.sleep(pause)
        raise AssertionError("unreachable")

    async def listing(self, patience: float) -> list[Instrument]:
        """Return what the venue lists; nothing where it has no such list.

        Raises FeedError or ValueError where it cannot be had within *patience* seconds.
        """
        history = self._plan.history
        request = history.listing_request() if history is not None else None
        if history is None or request is None:
            return []
        return await self.read(request, history.read_listing, patience)

    def _budget(self, request: Request) -> RateLimit | None:
        return self._budgets.of(request.url, "rest", request.rate)

    async def fetch(self, request: Request, *, patience: float = math.inf) -> bytes:
        """Return the answer to *request*, trying again where that may help.

        Nothing is tried again that would begin more than *patience* seconds from now.

        Raises RequestFailed, Throttled or ConnectionFailed.
        """
        clock = self._plan.feed.clock
        last = clock.monotonic() + patience
        backoff = Backoff(self._plan.feed.random)
        budget = self._budget(request)
        for attempt in range(1, _ATTEMPTS + 1):
            if budget is not None:
                await budget.take(request.weight)
            try:
                body = await self._get(request)
            except FeedError as error:
                pause = backoff.next()
                if isinstance(error, Throttled):
                    pause = max(pause, error.retry_after_seconds or 1.0)
                    if budget is not None:
                        budget.pause(pause)
                late = clock.monotonic() + pause > last
                if attempt == _ATTEMPTS or late or not error.retryable:
                    raise
                log.warning("request_failed", feed=self._plan.feed.name, reason=str(error))
                await clock.sleep(pause)
                continue
            for tap in self._taps:
                tap.answer(clock.time_ns(), request, body)
            return body
        raise AssertionError("unreachable")

    async def _get(self, request: Request) -> bytes:
        name = self._plan.feed.name
        check_headers(name, request.url, request.headers)
        try:
            response = await self._client.request(
                "POST" if request.body else "GET",
                request.url,
                headers=({"content-type": "application/json"} if request.body else {})
                | dict(request.headers),
                content=request.body or None,
            )
        except (httpx.HTTPError, OSError) as error:
            raise dial_error(name, request.url, error) from error
        except httpx.InvalidURL as error:
            failed = ConnectionFailed(name, f"{request.url!r} is no address: {error}")
            failed.retryable = False
            raise failed from error
        self._plan.feed.counters["requests"] += 1
        if response.status_code != 200:
            raise self._refused(request.url, response)
        return response.content

    def _refused(self, url: str, response: httpx.Response) -> RequestFailed:
        """Return the error for an answer that is none, in the venue's own words where it has some."""
        name, status, history = self._plan.feed.name, response.status_code, self._plan.history
        words = history.refusal_reason(status, response.content) if history is not None else ""
        if isinstance(words, RequestRefused):
            if words.retry_after_seconds is not None:
                return Throttled(name, f"{url}: {words.reason}", status, words.retry_after_seconds)
            words = words.reason
        if is_rate_limited(status, response.headers):
            now = self._plan.feed.clock.time_ns()
            return throttled(name, url, status, response.headers, now, words)
        path = httpx.URL(url).path
        return RequestFailed(
            name, f"{path} answered HTTP {status}{': ' + words if words else ''}", status
        )
