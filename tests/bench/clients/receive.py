"""Frames received, and nothing done with them: our transport, httpx-ws unchanged, picows."""

from __future__ import annotations

import anyio
import httpx
import httpx_ws
from meter import Meter, arguments, bases, trust
from tapeloom import Network
from tapeloom._network.http_client import http_client
from tapeloom._network.websocket import dialer
from tapeloom.plugin import Endpoint, PushLink

given = arguments(("loop", "asyncio"), ("session", "ours"))
meter = Meter(given)
path = "/stream?streams=" + "/".join(f"{base.lower()}usdt@trade" for base in bases())


async def ours() -> None:
    def take(messages: list[bytes]) -> None:
        meter.take(len(messages))

    async with (
        http_client(Network(ca=given.ca), "bench") as web,
        dialer(web, "bench")(Endpoint(url=given.url + path)) as link,
    ):
        assert isinstance(link, PushLink)
        await link.push_to(take)


async def stock() -> None:
    url = "http" + given.url.removeprefix("ws") + path
    async with (
        httpx.AsyncClient(verify=trust(given) or True) as web,
        httpx_ws.aconnect_ws(url, web) as session,
    ):
        while True:
            await session.receive_text()
            meter.take(1)


main = ours if given.session == "ours" else stock


options = {"use_uvloop": True} if given.loop == "uvloop" else {}
anyio.run(main, backend="trio" if given.loop == "trio" else "asyncio", backend_options=options)
