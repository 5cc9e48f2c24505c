"""The guarantees of a transport about a connection: order, fragments, control frames, sending, leaving."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import anyio
from tapeloom.errors import ConnectionLost
from tapeloom.plugin import Endpoint, Link, Network
from tapeloom.plugin.transports import CLOSE_TIMEOUT_SECONDS, MAX_MESSAGE_BYTES
from wsproto import events as ws

from tapeloom_testing.contract.declared import ContractViolation
from tapeloom_testing.contract.proving import first_difference
from tapeloom_testing.contract.readers import PATIENCE, Reader, framed
from tapeloom_testing.fakevenue import FakeClient, FakeVenue

from .links import Links, close_frame, listening

__all__ = ["Traffic"]

#: Byte sequences that break RFC 6455, by a description.
_BROKEN = {
    "reserved bits": b"\xc1\x01x",
    "an unknown opcode": b"\x83\x00",
    "a masked frame": b"\x81\x81aaaax",
    "the rest of no message": b"\x80\x01x",
    "a message within another": b"\x01\x01a\x81\x01b",
    "a ping in pieces": b"\x09\x00",
    "a ping that is too long": b"\x89\x7e\x00\x80" + bytes(128),
}
#: Payload sizes in bytes around the limits of the frame header's length fields.
_SIZES = (0, 1, 125, 126, 127, 65535, 65536, 300_000)


class Traffic(Links):
    """Tests of what a connection receives and sends, and of how it ends; each is one guarantee."""

    async def _order(self) -> None:
        texts = [f"{n:06d}" + "x" * size for n, size in enumerate(_SIZES)]
        texts += [f"{n}" for n in range(3000)]
        wire = b"".join(framed(text.encode()) for text in texts)
        cuts = [*range(1, 400), *range(400, len(wire), 7001), len(wire)]

        async def script(client: FakeClient) -> None:
            for start, stop in zip([0, *cuts], cuts, strict=False):
                await client.send_bytes(wire[start:stop])
            await close_frame(client)

        async def inspect(reader: Reader, link: Link) -> None:
            await reader.count(len(texts))
            _check_messages(texts, reader)

        await self.read(script, inspect)

    async def _together(self) -> None:
        texts = [f'{{"n":{n}}}' for n in range(500)]

        async def script(client: FakeClient) -> None:
            await client.send(*texts)
            await close_frame(client)

        async def inspect(reader: Reader, link: Link) -> None:
            await reader.count(len(texts))
            _check_messages(texts, reader)
            if len(reader.batches) > 50:
                raise ContractViolation(
                    f"500 messages of one write were read in {len(reader.batches)} batches; expected few"
                )

        await self.read(script, inspect)

    async def _pieces(self) -> None:
        async def script(client: FakeClient) -> None:
            await client.send_bytes(
                framed(b"", 0x01) + framed(b"ab", 0x00) + framed(b"?", 0x89) + framed(b"c", 0x80)
                + framed(b"d", 0x82)
            )  # fmt: skip
            await close_frame(client)

        async def inspect(reader: Reader, link: Link) -> None:
            await reader.count(2)
            _check_messages(["abc", "d"], reader)

        await self.read(script, inspect)
        half = bytes(MAX_MESSAGE_BYTES // 2 + 1)
        await self._closed_on(framed(half, 0x01) + framed(half, 0x80), 1009, "two large fragments")
        await self._closed_on(
            framed(b"")[:1] + b"\x7f" + (MAX_MESSAGE_BYTES + 1).to_bytes(8, "big"),
            1009,
            "its header",
        )

    async def _closed_on(self, bad: bytes, code: int, violation: str) -> None:
        """Send a good message, then *bad*; raise ContractViolation if it is not closed with *code*."""
        closes: list[ws.Event] = []

        async def script(client: FakeClient) -> None:
            await client.send_bytes(framed(b"good"))
            await client.send_bytes(bad)
            with anyio.move_on_after(PATIENCE):
                closes.append(await close_frame(client))

        async def inspect(reader: Reader, link: Link) -> None:
            lost = await reader.end()
            _check_messages(["good"], reader)
            if lost.code != code:
                raise ContractViolation(
                    f"{violation}: expected the close code {code}, got {lost.code}: {lost}"
                )

        await self.read(script, inspect)
        if not closes or any(getattr(close, "code", None) != code for close in closes):
            raise ContractViolation(
                f"{violation}: expected a close frame with {code} at the venue, got {closes}"
            )

    async def _control(self) -> None:
        pongs: list[bytes] = []

        async def script(client: FakeClient) -> None:
            await client.send_bytes(framed(b"1699", 0x89))
            answer = await client.receive()
            pongs.append(bytes(answer.payload) if isinstance(answer, ws.Pong) else b"")
            await client.send_bytes(framed(b"x") + framed(b"", 0x8A))
            await close_frame(client)

        async def inspect(reader: Reader, link: Link) -> None:
            await reader.until(lambda: reader.batches.count([]) == 2)
            if reader.batches != [[], [b"x"], []]:
                raise ContractViolation(
                    "a ping, then a message and a pong in one read, were delivered as"
                    f" {reader.batches}; expected [], ['x'] and []: an empty batch per control frame."
                )

        await self.read(script, inspect)
        if set(pongs) != {b"1699"}:
            raise ContractViolation(f"a ping with the payload '1699' was answered with {pongs}")

    async def _farewell(self) -> None:
        async def script(client: FakeClient) -> None:
            await client.send("last")
            await client.send_bytes(framed(b"x") + framed(b"\x0f\xa1bye", 0x88))
            await close_frame(client)

        async def inspect(reader: Reader, link: Link) -> None:
            lost = await reader.end()
            _check_messages(["last", "x"], reader)
            if lost.code != 4001 or "bye" not in str(lost):
                raise ContractViolation(
                    f"the venue closed with 4001 'bye'; the error has another code or reason: {lost}"
                )
            try:
                await link.send("too late")
            except ConnectionLost:
                return
            raise ContractViolation(
                "sending a text on an ended connection must raise ConnectionLost; nothing was raised"
            )

        await self.read(script, inspect)

    async def _broken(self) -> None:
        for violation, bad in _BROKEN.items():
            await self._closed_on(bad, 1002, violation)

    async def _torn(self) -> None:
        async def script(client: FakeClient) -> None:
            await client.send_bytes(framed(b"x") + framed(b"half")[:3])

        async def inspect(reader: Reader, link: Link) -> None:
            await reader.end()
            _check_messages(["x"], reader)

        await self.read(script, inspect)

    async def _sends(self) -> None:
        large = "é" * 200_000
        received: list[Any] = []

        async def script(client: FakeClient) -> None:
            received.append(client.head.lower())
            received.append(await client.receive_text())
            text = ""
            while len(text) < len(large):
                text += await client.receive_text()
            received.append(text)
            received.append(type(await client.receive()))
            await client.send("done")
            await close_frame(client)

        headers = {"X-Key": "k-1"}
        async with self.dialled(FakeVenue(script), headers=headers) as link:
            await link.send("subscribe")
            await link.send(large)
            await link.ping()
            await Reader(link, "receive").count(1)
        head = received[0]
        missing = [part for part in (b"\r\nx-key: k-1", b"\r\nuser-agent: ") if part not in head]
        if missing or b"permessage" in head:
            raise ContractViolation(f"the request lacks {missing}, or offers compression: {head!r}")
        if received[1:] != ["subscribe", large, ws.Ping]:
            raise ContractViolation(
                f"a text, a large text and a ping were sent; the venue received {received[1:]!r:.200}"
            )

    async def _waits(self) -> None:
        """Check back pressure: the venue must block when the client does not read."""
        sent, size = [0], 100_000
        most = 128 * 1024 * 1024  # more than the socket buffers of the operating system hold

        async def script(client: FakeClient) -> None:
            sent[0] = 0
            while True:
                await client.send_bytes(framed(f"{sent[0]:09d}".encode() + bytes(size)))
                sent[0] += 1

        async def venue_blocked() -> None:
            before = -1
            while sent[0] != before:
                before = sent[0]
                if before * size > most:
                    raise ContractViolation(
                        f"the transport read {before * size >> 20} MiB although no message was consumed"
                    )
                await anyio.sleep(0.2)

        async def inspect(reader: Reader, link: Link) -> None:
            await venue_blocked()
            await reader.until(lambda: bool(reader.messages), slowly=None)
            paused: list[int] = []

            async def slowly() -> None:
                if not paused:
                    paused.append(1)
                    await venue_blocked()

            await reader.until(lambda: len(reader.messages) > 200, slowly)
            numbers = [int(message[:9]) for message in reader.messages]
            if numbers != [*range(len(numbers))]:
                raise ContractViolation(
                    "messages were lost or reordered while no message was consumed"
                )

        await self.read(script, inspect)

    async def _leaving(self) -> None:
        closes: list[ws.Event] = []
        closed = anyio.Event()

        async def wait_for_close(client: FakeClient) -> None:
            closes.append(await close_frame(client))
            closed.set()

        async def never_read(client: FakeClient) -> None:
            # After one read the stream of the server no longer reads ahead, so the client's sends block.
            await client.send("ready")
            await client.receive_text()
            await anyio.sleep_forever()

        async with FakeVenue(wait_for_close).serve() as venue, self.dialling(Network()) as dial:
            async with dial(Endpoint(url=venue.url())):
                pass
            with anyio.move_on_after(PATIENCE):
                await closed.wait()
        if [getattr(close, "code", None) for close in closes] != [1000]:
            raise ContractViolation(
                f"expected a close frame with 1000 when the client leaves, got {closes}"
            )
        async with FakeVenue(never_read).serve() as venue, self.dialling(Network()) as dial:
            async with dial(Endpoint(url=venue.url())) as link:
                await Reader(link, "receive").count(1)
                await link.send("go")
                with anyio.move_on_after(1):
                    while True:
                        await link.send("x" * 1_000_000)
                began = anyio.current_time()
            took = anyio.current_time() - began
        if took > CLOSE_TIMEOUT_SECONDS + 1:
            raise ContractViolation(
                f"closing took {took:.1f} s because the venue does not read; at most"
                f" {CLOSE_TIMEOUT_SECONDS + 1} s are allowed"
            )

    async def _cancelled(self) -> None:
        # Lets the venue send. `_read` runs both functions twice, so each run leaves a new event.
        may_send = [anyio.Event()]

        async def script(client: FakeClient) -> None:
            await may_send[0].wait()
            await client.send("x")
            await close_frame(client)

        async def inspect(reader: Reader, link: Link) -> None:
            # Cancel three reads that wait for data; the message sent afterwards must still arrive.
            for _ in range(3):
                with anyio.move_on_after(0.01):
                    await reader.end()
            may_send[0].set()
            await reader.count(1)
            may_send[0] = anyio.Event()

        await self.read(script, inspect)
        ended = anyio.Event()

        async def unresponsive(stream: anyio.abc.ByteStream) -> None:
            async with stream:
                with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                    while True:
                        await stream.receive()
                ended.set()

        async with listening(unresponsive) as port, self.dialling(Network()) as dial:
            with anyio.move_on_after(0.3):
                async with dial(Endpoint(url=f"ws://127.0.0.1:{port}")):
                    raise ContractViolation(
                        "the dial returned a connection before its handshake was answered"
                    )
            with anyio.move_on_after(2):
                await ended.wait()
        if not ended.is_set():
            raise ContractViolation("the connection of a cancelled dial is still open")


def _check_messages(texts: Sequence[str], reader: Reader) -> None:
    """Raise ContractViolation if the messages read are not *texts*."""
    got = [message.decode() for message in reader.messages]
    if got != list(texts):
        at = first_difference(texts, got)
        raise ContractViolation(
            f"{len(texts)} messages were sent and {len(got)} read; first difference at index {at}:"
            f" expected {texts[at : at + 1]!r:.80}, got {got[at : at + 1]!r:.80}"
        )
