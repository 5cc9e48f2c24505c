"""Sends REST requests within the venue's rate limit, and retries those that may succeed later."""

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
from tapeloom.errors import (
    ConnectionFailed,
    FeedError,
    RequestFailed,
    RequestRefused,
    Throttled,
    printable,
)
from tapeloom.plugin import Request
from tapeloom.plugin.transports import check_headers, dial_error, is_rate_limited, throttled
from tapeloom.symbols import Instrument

log = structlog.get_logger()

T = TypeVar("T")

#: Maximum number of attempts for one request.
_ATTEMPTS = 5


class RestClient:
    """Sends the requests of one feed and parses the answers."""

    def __init__(
        self,
        plan: FeedPlan,
        client: httpx.AsyncClient,
        rate_limits: RateLimits,
        taps: Sequence[FrameTap] = (),
    ) -> None:
        self._plan = plan
        self._client = client
        self._rate_limits = rate_limits
        self._taps = taps

    async def read(
        self, request: Request, parse: Callable[[bytes], list[T]], timeout_seconds: float = math.inf
    ) -> list[T]:
        """Return the answer to *request* as *parse* returns it.

        The request is repeated where *parse* raises a RequestRefused that names a pause. Raises
        RequestRefused, a ValueError for any other exception of *parse*, or what `fetch` raises.
        """
        clock, limit = self._plan.feed.clock, self._limit(request)
        deadline = clock.monotonic() + timeout_seconds
        for attempt in range(1, _ATTEMPTS + 1):
            body = await self.fetch(request, retry_seconds=deadline - clock.monotonic())
            try:
                return parse(body)
            except RequestRefused as refused:
                pause = refused.retry_after_seconds
                if attempt == _ATTEMPTS or pause is None or clock.monotonic() + pause > deadline:
                    raise
                log.warning("request_failed", feed=self._plan.feed.name, reason=refused.reason)
                if limit is not None:
                    limit.pause(pause)
                else:
                    await clock.sleep(pause)
            except ValueError as error:
                raise ValueError(printable(str(error))) from error
            except Exception as error:  # the adapter did not expect an answer of this shape
                raise ValueError(printable(f"{type(error).__name__}: {error}")) from error
        raise AssertionError("unreachable")

    async def listing(self, timeout_seconds: float) -> list[Instrument]:
        """Return the instruments that the venue lists; empty if it has no listing.

        Raises FeedError or ValueError if it cannot be fetched within *timeout_seconds*.
        """
        history = self._plan.history
        request = history.listing_request() if history is not None else None
        if history is None or request is None:
            return []
        return await self.read(request, history.read_listing, timeout_seconds)

    def _limit(self, request: Request) -> RateLimit | None:
        return self._rate_limits.limit(request.url, "rest", request.rate)

    async def fetch(self, request: Request, *, retry_seconds: float = math.inf) -> bytes:
        """Return the body of the answer to *request*, with retries.

        No retry begins later than *retry_seconds* from now.

        Raises RequestFailed, Throttled or ConnectionFailed.
        """
        clock = self._plan.feed.clock
        deadline = clock.monotonic() + retry_seconds
        backoff = Backoff(self._plan.feed.random)
        limit = self._limit(request)
        for attempt in range(1, _ATTEMPTS + 1):
            if limit is not None:
                await limit.acquire(request.weight)
            try:
                body = await self._send(request)
            except FeedError as error:
                pause = backoff.next()
                if isinstance(error, Throttled):
                    pause = max(pause, error.retry_after_seconds or 1.0)
                    if limit is not None:
                        limit.pause(pause)
                late = clock.monotonic() + pause > deadline
                if attempt == _ATTEMPTS or late or not error.retryable:
                    raise
                log.warning("request_failed", feed=self._plan.feed.name, reason=str(error))
                await clock.sleep(pause)
                continue
            for tap in self._taps:
                tap.answer(clock.time_ns(), request, body)
            return body
        raise AssertionError("unreachable")

    async def _send(self, request: Request) -> bytes:
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
            failed = ConnectionFailed(name, f"{request.url!r} is not a valid URL: {error}")
            failed.retryable = False
            raise failed from error
        self._plan.feed.counters["requests"] += 1
        if response.status_code != 200:
            raise self._error(request.url, response)
        return response.content

    def _error(self, url: str, response: httpx.Response) -> RequestFailed:
        """Return the error for an HTTP status that is not 200, with the venue's own reason."""
        name, status, history = self._plan.feed.name, response.status_code, self._plan.history
        reason = history.refusal_reason(status, response.content) if history is not None else ""
        if isinstance(reason, RequestRefused):
            seconds, reason = reason.retry_after_seconds, reason.reason
            if seconds is not None:
                return Throttled(name, f"{url}: {reason}", status, seconds)
        if is_rate_limited(status, response.headers):
            now = self._plan.feed.clock.time_ns()
            return throttled(name, url, status, response.headers, now, reason)
        path = httpx.URL(url).path
        return RequestFailed(
            name, f"{path} answered HTTP {status}{': ' + reason if reason else ''}", status
        )
