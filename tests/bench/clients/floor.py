"""The floor: picows and msgspec, each field of each frame decoded, and nothing else."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import msgspec
import picows
from meter import Meter, arguments, bases, trust


class Data(msgspec.Struct):
    e: str
    E: int
    s: str
    t: int
    p: Decimal
    q: Decimal
    T: int
    m: bool
    M: bool


class Push(msgspec.Struct):
    stream: str
    data: Data


given = arguments(("loop", "asyncio"), ("decode", "yes"), ("symbols", 10))
meter = Meter(given)
decode = msgspec.json.Decoder(Push).decode


class Decoding(picows.WSListener):
    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        decode(frame.get_payload_as_bytes())
        meter.take(1)


class Receiving(picows.WSListener):
    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        frame.get_payload_as_bytes()
        meter.take(1)


async def main() -> None:
    streams = "/".join(f"{base.lower()}usdt@trade" for base in bases(given.symbols))
    await picows.ws_connect(
        Decoding if given.decode == "yes" else Receiving,
        f"{given.url}/stream?streams={streams}",
        ssl_context=trust(given),
    )
    await asyncio.Event().wait()


if given.loop == "uvloop":
    import uvloop

    uvloop.run(main())
else:
    asyncio.run(main())
