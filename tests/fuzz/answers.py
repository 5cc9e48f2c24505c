"""Broken answers over HTTP, as bytes on a socket, read by core's own client for REST."""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from random import Random

import anyio
import anyio.abc
from tapeloom import FeedSpec, Registry, Stack
from tapeloom._compose.composer import compose
from tapeloom._history.rest_client import RestClient
from tapeloom._network.http_client import http_client
from tapeloom._runtime.rate_limits import RateLimits
from tapeloom.errors import FeedError
from tapeloom.plugin import Network, Request
from tapeloom_testing import LoopClock
from tapeloom_testing.fuzz import mutants

_BODY = b'[{"id":1,"price":"1.50","qty":"2","time":1700000000000,"isBuyerMaker":true}]'


def _response(status: bytes, body: bytes, *headers: bytes) -> bytes:
    lines = [b"HTTP/1.1 " + status, b"content-length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


_RESPONSES = [
    _response(b"200 OK", _BODY, b"content-type: application/json"),
    _response(b"200 OK", gzip.compress(_BODY, mtime=0), b"content-encoding: gzip"),
    _response(b"200 OK", gzip.compress(b" " * 40_000_000, mtime=0), b"content-encoding: gzip"),
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n"
    % (len(_BODY), _BODY),
    _response(b"429 Too Many", b'{"code":-1003,"msg":"slow down"}', b"retry-after: 2"),
    _response(b"418 I am a teapot", b"", b"retry-after: 99999999999999999999"),
    _response(b"403 Forbidden", b"<html>\x1b]0;title\x07 no</html>"),
    _response(b"302 Found", b"", b"location: http://127.0.0.1:1/\x1b"),
    _response(b"503 Busy", b"\xff\xfe", b"retry-after: Fri, 31 Dec 9999 23:59:59 GMT"),
    b"HTTP/1.1 100 Continue\r\n\r\n" + _response(b"200 OK", _BODY),
    b"HTTP/1.0 200 OK\r\n\r\n" + _BODY,
]


async def read_answers(count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Send *count* requests, to which the answers are broken; return the outcomes, and what escaped.

    Run it in virtual time: an answer that never ends is awaited for 15 s.
    """
    bad: Iterator[bytes] = mutants(_RESPONSES, Random(seed))
    outcomes: Counter[str] = Counter()
    escaped: list[str] = []

    async def answer(client: anyio.abc.SocketStream) -> None:
        async with client:
            with suppress(OSError, anyio.EndOfStream, anyio.BrokenResourceError):
                await client.receive()
                await client.send(next(bad))
                await client.send_eof()
                await client.receive()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    clock = LoopClock()
    stack = Stack(feeds=(FeedSpec("binance", ["BTC/USDT"], ["trades"]),))
    plan = compose(stack, Registry(), clock, 1).plans[0]
    history = plan.history
    assert history is not None
    path = "/api/v3/historicalTrades?symbol=BTCUSDT&limit=1000"
    request = Request(url=f"http://127.0.0.1:{port}{path}")
    async with (
        listener,
        anyio.create_task_group() as tasks,
        http_client(Network(), "fuzz") as client,
    ):
        tasks.start_soon(listener.serve, answer)
        for number in range(count):
            rest = RestClient(plan, client, RateLimits(clock))
            try:
                await rest.read(request, lambda body: history.read_answer(request, body, 1))
            except (FeedError, ValueError) as error:
                outcomes[type(error).__name__] += 1
                if not str(error).isprintable():
                    escaped.append(f"answer {number}: {str(error)!r}")
            except Exception as error:
                escaped.append(f"answer {number}: {error!r}")
            else:
                outcomes["read"] += 1
        tasks.cancel_scope.cancel()
    return outcomes, escaped
