"""Frames received, and nothing done with them: our transport, httpx-ws as it comes, picows."""

from __future__ import annotations

import anyio
import httpx
import httpx_ws
from meter import Meter, arguments, bases, trust
from tapeloom._transport import dialer
from tapeloom.feeds import Endpoint

given = arguments(("loop", "asyncio"), ("session", "ours"))
meter = Meter(given)
path = "/stream?streams=" + "/".join(f"{base.lower()}usdt@trade" for base in bases())


async def main() -> None:
    async with httpx.AsyncClient(verify=trust(given) or True) as client:
        if given.session == "ours":
            async with dialer(client, "bench")(Endpoint(url=given.url + path)) as link:
                while True:
                    meter.take(len(await link.receive()))
        else:
            url = "http" + given.url.removeprefix("ws") + path
            async with httpx_ws.aconnect_ws(url, client) as session:
                while True:
                    await session.receive_text()
                    meter.take(1)


options = {"use_uvloop": True} if given.loop == "uvloop" else {}
anyio.run(main, backend="trio" if given.loop == "trio" else "asyncio", backend_options=options)
