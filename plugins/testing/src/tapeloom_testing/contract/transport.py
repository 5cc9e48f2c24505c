"""The contract of a transport: tests that dial a server on a loopback socket.

The server sends valid, fragmented, broken and refused traffic; each guarantee is one method.
"""

from __future__ import annotations

import importlib.util
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
import tapeloom
from tapeloom import FeedSpec, Stack
from tapeloom.errors import (
    BackendUnsupported,
    ConnectionFailed,
    ConnectionLost,
    FeedError,
    Throttled,
    unwrap_single,
)
from tapeloom.harness import BACKENDS, SystemClock
from tapeloom.plugin import Dial, Endpoint, Feed, Link, Network, PushLink
from tapeloom.plugin.transports import CLOSE_TIMEOUT_SECONDS, MAX_MESSAGE_BYTES
from wsproto import events as ws

from tapeloom_testing.fakevenue import FakeClient, FakeVenue
from tapeloom_testing.virtual import virtual_backend

from .declared import TRANSPORT, ContractViolation, NotApplicable
from .null_venue import NullVenue
from .proving import Proving, first_difference
from .readers import PATIENCE, Reader, framed, tunnel

__all__ = ["TransportContract"]

Script = Callable[[FakeClient], Awaitable[Any]]

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
#: The error type, and whether it is retryable, for each HTTP status of a refused upgrade.
_STATUSES: dict[int, tuple[type[FeedError], bool]] = {
    400: (ConnectionFailed, False),
    403: (Throttled, True),
    404: (ConnectionFailed, False),
    418: (Throttled, True),
    429: (Throttled, True),
    503: (Throttled, True),
    520: (Throttled, True),
}
#: URLs that cannot be dialled.
_NO_ADDRESSES = ("nonsense://x/ws", "ws://", "ws://[::1/ws", "ws://x:port/")
#: Payload sizes in bytes around the limits of the frame header's length fields.
_SIZES = (0, 1, 125, 126, 127, 65535, 65536, 300_000)


async def _close_frame(client: FakeClient) -> ws.Event:
    """Wait for the client's close frame and return it."""
    while not isinstance(event := await client.receive(), ws.CloseConnection):
        pass
    return event


class TransportContract(Proving):
    """Tests of every guarantee of a transport. Subclass it with a name that begins with ``Test``.

    Links are read with `receive` and, where offered, with `push_to`, on every supported event loop.
    """

    kind = "transport"
    guarantees = TRANSPORT

    transport: str  #: the name of its entry point

    @asynccontextmanager
    async def dialling(self, network: Network) -> AsyncIterator[Dial]:
        """Yield the transport's dial function, as its hook returns it."""
        registry = self.registry()
        registry.load(self.transport)
        feed = Feed("contract", "contract", clock=SystemClock(), network=network)
        yield registry.call(self.transport, "transport", feed=feed)

    @pytest.mark.parametrize("guarantee", TRANSPORT)
    def test_it_keeps(self, guarantee: str) -> None:
        """Test one guarantee."""
        self.prove(guarantee, "")

    def test_the_committed_conformance_equals_the_results(
        self, request: pytest.FixtureRequest
    ) -> None:
        """The conformance file of the package equals what was proven in this run."""
        self.level(request)

    # ------------------------------------------------------------------------------ the guarantees

    def check(self, guarantee: str, place: str) -> None:
        """Test one guarantee; raise ContractViolation or NotApplicable."""
        check = getattr(self, f"_{guarantee}")
        if guarantee == "backends":
            check()
            return
        for backend in self._loops():
            if importlib.util.find_spec(backend) is None:
                raise NotApplicable(f"{backend} is not installed", here=True)
            try:
                anyio.run(check, backend=backend)
            except BaseExceptionGroup as group:
                raise unwrap_single(group) from None

    def _loops(self) -> list[str]:
        """Return the event loops that the transport supports."""

        async def supported() -> frozenset[str]:
            async with self.dialling(Network()) as dial:
                return frozenset(getattr(dial, "backends", BACKENDS))

        backends = anyio.run(supported)
        return [backend for backend in BACKENDS if backend in backends]

    @asynccontextmanager
    async def _dialled(
        self, venue: FakeVenue, network: Network | None = None, **more: Any
    ) -> AsyncIterator[Link]:
        async with (
            venue.serve(),
            self.dialling(network or Network()) as dial,
            dial(Endpoint(url=venue.url(), **more)) as link,
        ):
            yield link

    async def _read(
        self, script: Script, inspect: Callable[[Reader, Link], Awaitable[None]], **more: Any
    ) -> None:
        """Run *inspect* on a link to a venue that runs *script*, once per read method."""
        async with self._dialled(FakeVenue(script), **more) as link:
            await inspect(Reader(link, "receive"), link)
        if isinstance(link, PushLink):
            async with self._dialled(FakeVenue(script), **more) as link:
                await inspect(Reader(link, "deliver"), link)

    async def _order(self) -> None:
        texts = [f"{n:06d}" + "x" * size for n, size in enumerate(_SIZES)]
        texts += [f"{n}" for n in range(3000)]
        wire = b"".join(framed(text.encode()) for text in texts)
        cuts = [*range(1, 400), *range(400, len(wire), 7001), len(wire)]

        async def script(client: FakeClient) -> None:
            for start, stop in zip([0, *cuts], cuts, strict=False):
                await client.send_bytes(wire[start:stop])
            await _close_frame(client)

        async def inspect(reader: Reader, link: Link) -> None:
            await reader.count(len(texts))
            _check_messages(texts, reader)

        await self._read(script, inspect)

    async def _together(self) -> None:
        texts = [f'{{"n":{n}}}' for n in range(500)]

        async def script(client: FakeClient) -> None:
            await client.send(*texts)
            await _close_frame(client)

        async def inspect(reader: Reader, link: Link) -> None:
            await reader.count(len(texts))
            _check_messages(texts, reader)
            if len(reader.batches) > 50:
                raise ContractViolation(
                    f"500 messages of one write were read in {len(reader.batches)} batches; expected few"
                )

        await self._read(script, inspect)

    async def _pieces(self) -> None:
        async def script(client: FakeClient) -> None:
            await client.send_bytes(
                framed(b"", 0x01) + framed(b"ab", 0x00) + framed(b"?", 0x89) + framed(b"c", 0x80)
                + framed(b"d", 0x82)
            )  # fmt: skip
            await _close_frame(client)

        async def inspect(reader: Reader, link: Link) -> None:
            await reader.count(2)
            _check_messages(["abc", "d"], reader)

        await self._read(script, inspect)
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
                closes.append(await _close_frame(client))

        async def inspect(reader: Reader, link: Link) -> None:
            lost = await reader.end()
            _check_messages(["good"], reader)
            if lost.code != code:
                raise ContractViolation(
                    f"{violation}: expected the close code {code}, got {lost.code}: {lost}"
                )

        await self._read(script, inspect)
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
            await _close_frame(client)

        async def inspect(reader: Reader, link: Link) -> None:
            await reader.until(lambda: reader.batches.count([]) == 2)
            if reader.batches != [[], [b"x"], []]:
                raise ContractViolation(
                    "a ping, then a message and a pong in one read, were delivered as"
                    f" {reader.batches}; expected [], ['x'] and []: an empty batch per control frame."
                )

        await self._read(script, inspect)
        if set(pongs) != {b"1699"}:
            raise ContractViolation(f"a ping with the payload '1699' was answered with {pongs}")

    async def _farewell(self) -> None:
        async def script(client: FakeClient) -> None:
            await client.send("last")
            await client.send_bytes(framed(b"x") + framed(b"\x0f\xa1bye", 0x88))
            await _close_frame(client)

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

        await self._read(script, inspect)

    async def _broken(self) -> None:
        for violation, bad in _BROKEN.items():
            await self._closed_on(bad, 1002, violation)

    async def _torn(self) -> None:
        async def script(client: FakeClient) -> None:
            await client.send_bytes(framed(b"x") + framed(b"half")[:3])

        async def inspect(reader: Reader, link: Link) -> None:
            await reader.end()
            _check_messages(["x"], reader)

        await self._read(script, inspect)

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
            await _close_frame(client)

        headers = {"X-Key": "k-1"}
        async with self._dialled(FakeVenue(script), headers=headers) as link:
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

        await self._read(script, inspect)

    async def _leaving(self) -> None:
        closes: list[ws.Event] = []
        closed = anyio.Event()

        async def wait_for_close(client: FakeClient) -> None:
            closes.append(await _close_frame(client))
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
            await _close_frame(client)

        async def inspect(reader: Reader, link: Link) -> None:
            # Cancel three reads that wait for data; the message sent afterwards must still arrive.
            for _ in range(3):
                with anyio.move_on_after(0.01):
                    await reader.end()
            may_send[0].set()
            await reader.count(1)
            may_send[0] = anyio.Event()

        await self._read(script, inspect)
        ended = anyio.Event()

        async def unresponsive(stream: anyio.abc.ByteStream) -> None:
            async with stream:
                with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                    while True:
                        await stream.receive()
                ended.set()

        async with _listening(unresponsive) as port, self.dialling(Network()) as dial:
            with anyio.move_on_after(0.3):
                async with dial(Endpoint(url=f"ws://127.0.0.1:{port}")):
                    raise ContractViolation(
                        "the dial returned a connection before its handshake was answered"
                    )
            with anyio.move_on_after(2):
                await ended.wait()
        if not ended.is_set():
            raise ContractViolation("the connection of a cancelled dial is still open")

    # ------------------------------------------------------------------------- connections that fail

    async def _refusals(self) -> None:
        for status, (kind, retryable) in _STATUSES.items():
            venue = FakeVenue(_close_frame, upgrade=(status, {"Retry-After": "7"}, b"no"))
            async with venue.serve():
                error = await self._failure(venue.url(), kind, retryable, str(status))
            if isinstance(error, Throttled) and error.retry_after_seconds != 7:
                raise ContractViolation(
                    f"HTTP {status} with Retry-After 7: expected retry_after_seconds 7, got"
                    f" {error.retry_after_seconds}"
                )
        async with FakeVenue(_close_frame, upgrade=(503, {}, b"no")).serve() as down:
            await self._failure(down.url(), ConnectionFailed, True, "503")
        async with FakeVenue(_close_frame).serve() as gone:
            pass
        await self._failure(gone.url(), ConnectionFailed, True, "refused the connection")
        await self._failure("ws://nowhere.invalid/ws", ConnectionFailed, True, "nowhere.invalid")
        for url in _NO_ADDRESSES:
            await self._failure(url, ConnectionFailed, False, "wss://")
        for answer in (b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"):
            async with _listening(partial(_answering, answer)) as port:
                await self._failure(f"ws://127.0.0.1:{port}", ConnectionFailed, None, "127.0.0.1")
        secret = Endpoint(url=gone.url(), headers={"X-Key": "sesame\n"})
        error = await self._failure(secret, ConnectionFailed, False, "X-Key")
        if "sesame" in str(error):
            raise ContractViolation(f"the error of an invalid header shows its value: {error}")

    async def _failure(
        self, to: str | Endpoint, kind: type[FeedError], retryable: bool | None, part: str,
        network: Network | None = None,
    ) -> FeedError:  # fmt: skip
        """Dial *to*, which is to fail, and return the error.

        Raises ContractViolation if the dial succeeds, or if the error is not of this *kind*, has
        another `retryable` (None: either will do) or does not contain *part* in its text.
        """
        endpoint = Endpoint(url=to) if isinstance(to, str) else to
        try:
            with anyio.fail_after(PATIENCE):
                async with self.dialling(network or Network()) as dial, dial(endpoint):
                    pass
        except FeedError as error:
            right = type(error) is kind and retryable in (None, error.retryable)
            if not right or part not in str(error):
                raise ContractViolation(
                    f"{endpoint.url}: {type(error).__name__}, retryable {error.retryable}: {error}"
                    f" Expected {kind.__name__}, retryable {retryable}, with {part!r} in its text."
                ) from error
            return error
        raise ContractViolation(f"{endpoint.url} was dialled; expected {kind.__name__}")

    async def _network(self) -> None:
        with _certified() as (context, ca):
            venue = FakeVenue(_close_frame, context=context)
            async with venue.serve():
                await self._failure(venue.url(), ConnectionFailed, False, 'ca = "file.pem"')
            async with self._dialled(FakeVenue(_greeting, context=context), Network(ca=ca)) as link:
                await Reader(link, "receive").count(1)
            served: list[bytes] = []
            async with tunnel(served) as proxy:
                network = Network(ca=ca, proxy=proxy)
                venue = FakeVenue(_greeting, context=context)
                async with self._dialled(venue, network) as link:
                    await Reader(link, "receive").count(1)
            if not served:
                raise ContractViolation(
                    "the stack configures a proxy, but the connection did not go through it"
                )

    def _backends(self) -> None:
        loops = self._loops()
        for backend in BACKENDS:
            if importlib.util.find_spec(backend) is None:
                raise NotApplicable(f"{backend} is not installed", here=True)
            if backend in loops:
                name, options = virtual_backend(backend)
                anyio.run(self._unanswered, backend=name, backend_options=options)
                continue
            try:
                anyio.run(self._opened, backend=backend)
            except BackendUnsupported as error:
                if error.plugin == self.name():
                    continue
            raise ContractViolation(
                f"the transport does not support {backend}: expected BackendUnsupported on it"
            )

    async def _unanswered(self) -> None:
        """Dial a server that never answers; the dial must time out."""

        async def unresponsive(stream: anyio.abc.ByteStream) -> None:
            async with stream:
                await anyio.sleep_forever()

        async with _listening(unresponsive) as port, self.dialling(Network()) as dial:
            try:
                with anyio.fail_after(60):
                    async with dial(Endpoint(url=f"ws://127.0.0.1:{port}")):
                        pass
            except ConnectionFailed as error:
                if "did not answer in time" in str(error):
                    return
                raise ContractViolation(
                    f"a server never answered; expected 'did not answer in time', got: {error}"
                ) from error
            except TimeoutError:
                raise ContractViolation(
                    "a server never answered, and the dial did not time out"
                ) from None

    async def _opened(self) -> None:
        registry = self.registry()
        registry.register(NullVenue(), "contract")
        stack = Stack(
            feeds=(FeedSpec("contract", ("BTC/USDT",), ("trades",)),),
            network=tapeloom.Network(transport=self.transport),
        )
        async with tapeloom.open(stack, registry=registry):
            pass


def _check_messages(texts: Sequence[str], reader: Reader) -> None:
    """Raise ContractViolation if the messages read are not *texts*."""
    got = [message.decode() for message in reader.messages]
    if got != list(texts):
        at = first_difference(texts, got)
        raise ContractViolation(
            f"{len(texts)} messages were sent and {len(got)} read; first difference at index {at}:"
            f" expected {texts[at : at + 1]!r:.80}, got {got[at : at + 1]!r:.80}"
        )


async def _greeting(client: FakeClient) -> None:
    await client.send("hello")
    await _close_frame(client)


async def _answering(answer: bytes, stream: anyio.abc.ByteStream) -> None:
    async with stream:
        await stream.receive()
        await stream.send(answer or b"")


@asynccontextmanager
async def _listening(serve: Callable[[Any], Awaitable[None]]) -> AsyncIterator[int]:
    """Run a plain TCP server and yield its port."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        yield listener.extra(anyio.abc.SocketAttribute.local_port)
        tasks.cancel_scope.cancel()


@contextmanager
def _certified() -> Iterator[tuple[ssl.SSLContext, str]]:
    """Yield a server's TLS context, and the file of the CA certificate that signed its own."""
    try:
        import trustme
    except ImportError:
        raise NotApplicable("trustme is not installed", here=True) from None
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ca.pem"
        authority.cert_pem.write_to_path(str(path))
        yield context, str(path)
