"""Sends REST requests within the venue's rate limit, and retries those that may succeed later."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import anyio
import httpx
import structlog

from tapeloom._compose.plan import FeedPlan
from tapeloom._runtime.backoff import Backoff
from tapeloom._runtime.rate_limits import LimitPaused, RateLimit, RateLimits
from tapeloom._runtime.taps import FrameTap
from tapeloom.errors import FeedError, RequestFailed, RequestRefused, Throttled, printable
from tapeloom.plugin import Request
from tapeloom.plugin.transports import (
    check_headers,
    dial_error,
    invalid_address,
    is_rate_limited,
    plain_text,
    throttled,
)
from tapeloom.symbols import Instrument

log = structlog.get_logger()

T = TypeVar("T")

#: Maximum number of attempts for one request.
_ATTEMPTS = 5
#: Seconds in which an answer has to be complete: a megabyte over a slow line.
_ANSWER_SECONDS = 15.0
#: After so many seconds of waiting for its answers a request is not repeated.
_MAX_ANSWERS_SECONDS = 20.0
#: The longest pause, in seconds, that a request waits for; with a longer one it fails at once.
_MAX_WAIT_SECONDS = 600.0
#: Maximum length of the venue's own reason in an error.
_MAX_REASON = 500
#: The part of a rate limit that only urgent requests may use: one in so many.
_RESERVE = 5


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
        self.answered_at = 0  #: when the last answer arrived, in ns

    async def read(
        self,
        request: Request,
        parse: Callable[[bytes], list[T]],
        timeout_seconds: float = math.inf,
        *,
        urgent: bool = True,
    ) -> list[T]:
        """Return the answer to *request* as *parse* returns it.

        The request is repeated where *parse* raises a RequestRefused that names a pause. Raises
        RequestRefused, a ValueError for any other exception of *parse*, or what `fetch` raises.
        """
        name, clock, limit = self._plan.feed.name, self._plan.feed.clock, self._limit(request)
        deadline = clock.monotonic() + timeout_seconds
        for attempt in range(1, _ATTEMPTS + 1):
            seconds = deadline - clock.monotonic()
            body = await self.fetch(request, timeout_seconds=seconds, urgent=urgent)
            try:
                return parse(body)
            except RequestRefused as refused:
                if refused.retry_after_seconds is None:
                    raise
                throttled = Throttled(name, refused.reason, 200, refused.retry_after_seconds)
                pause = throttled.retry_after_seconds or 0.0
                if limit is not None:
                    limit.pause(pause)
                if attempt == _ATTEMPTS or pause > min(
                    _MAX_WAIT_SECONDS, deadline - clock.monotonic()
                ):
                    raise throttled from refused
                log.warning("request_failed", feed=name, reason=refused.reason)
                if limit is None:
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

    async def fetch(
        self, request: Request, *, timeout_seconds: float = math.inf, urgent: bool = True
    ) -> bytes:
        """Return the body of the answer to *request*, with retries.

        No attempt begins later than *timeout_seconds* from now, and no answer is awaited longer. A
        request that is not *urgent* leaves a part of the rate limit to those that are.

        Raises RequestFailed, Throttled or ConnectionFailed.
        """
        clock = self._plan.feed.clock
        deadline = clock.monotonic() + timeout_seconds
        backoff = Backoff(self._plan.feed.random)
        limit = self._limit(request)
        waited = 0.0  # for answers, in seconds
        for attempt in range(1, _ATTEMPTS + 1):
            if limit is not None:
                await self._acquire(limit, request, deadline - clock.monotonic(), urgent=urgent)
            sent_at = anyio.current_time()
            try:
                body = await self._send(request, deadline - clock.monotonic())
            except FeedError as error:
                waited += anyio.current_time() - sent_at
                pause = backoff.next()
                if isinstance(error, Throttled):
                    pause = max(pause, error.retry_after_seconds or 1.0)
                    if limit is not None:
                        limit.pause(pause)
                late = pause > min(_MAX_WAIT_SECONDS, deadline - clock.monotonic())
                late = late or waited > _MAX_ANSWERS_SECONDS
                if attempt == _ATTEMPTS or late or not error.retryable:
                    raise
                log.warning("request_failed", feed=self._plan.feed.name, reason=str(error))
                await clock.sleep(pause)
                continue
            self.answered_at = clock.time_ns()
            for tap in self._taps:
                tap.answer(self.answered_at, request, body)
            return body
        raise AssertionError("unreachable")

    async def _acquire(
        self, limit: RateLimit, request: Request, seconds: float, *, urgent: bool
    ) -> None:
        """Wait for the rate limit; raise Throttled where the venue demands too long a pause."""
        reserve = 0 if urgent or request.rate is None else request.rate.count // _RESERVE
        longest = min(_MAX_WAIT_SECONDS, seconds)
        try:
            await limit.acquire(
                request.weight, urgent=urgent, reserve=reserve, longest_pause=longest
            )
        except LimitPaused as paused:
            text = (
                f"{httpx.URL(request.url).host} has asked for a pause, of which {paused.seconds:.0f} s"
                " are left; no request is sent before. To avoid it, make fewer requests from this"
                " address."
            )
            raise Throttled(self._plan.feed.name, text, 429, paused.seconds) from None

    async def _send(self, request: Request, timeout_seconds: float) -> bytes:
        name, response = self._plan.feed.name, None
        timeout_seconds = max(min(timeout_seconds, _ANSWER_SECONDS), 0.0)
        check_headers(name, request.url, request.headers)
        try:
            with anyio.move_on_after(timeout_seconds):
                response = await self._client.request(
                    "POST" if request.body else "GET",
                    request.url,
                    headers=({"content-type": "application/json"} if request.body else {})
                    | dict(request.headers),
                    content=request.body or None,
                )
        except httpx.DecodingError as error:
            raise RequestFailed(name, f"{httpx.URL(request.url).path}: {error}", 200) from error
        except (httpx.HTTPError, OSError) as error:
            raise dial_error(name, request.url, error) from error
        except httpx.InvalidURL as error:
            raise invalid_address(name, request.url, error, "http") from error
        self._plan.feed.counters["requests"] += 1
        if response is None:
            url = httpx.URL(request.url)
            raise RequestFailed(
                name,
                f"{url.host} did not complete its answer to {url.path} within {timeout_seconds:g} s."
                " Check the network, the proxy and the venue's status.",
            )
        if response.status_code != 200:
            raise self._error(request.url, response)
        return response.content

    def _error(self, url: str, response: httpx.Response) -> RequestFailed:
        """Return the error for an HTTP status that is not 200, with the venue's own reason."""
        name, status, history = self._plan.feed.name, response.status_code, self._plan.history
        rule = history.refusal_reason(status, response.content) if history is not None else ""
        by_venue = rule if isinstance(rule, RequestRefused) else RequestRefused(rule)
        reason = by_venue.reason[:_MAX_REASON] or plain_text(response.content)
        pause = by_venue.retry_after_seconds
        limited = by_venue is not rule and is_rate_limited(status, response.headers)
        if pause is not None or limited:
            now = self._plan.feed.clock.time_ns()
            return throttled(name, url, status, response.headers, now, reason, pause)
        path = httpx.URL(url).path
        failed = RequestFailed(
            name, f"{path} answered HTTP {status}{': ' + reason if reason else ''}", status
        )
        failed.retryable = failed.retryable and by_venue is not rule
        return failed
