"""The contract of a transport: a server on a loopback socket, and everything that can come of it."""

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
from tapeloom import FeedSpec, Registry, Stack
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
from .proving import Proving
from .readers import PATIENCE, Reader, framed, tunnel

__all__ = ["TransportContract"]

Script = Callable[[FakeClient], Awaitable[Any]]

#: What breaks the protocol, and how.
_BROKEN = {
    "reserved bits": b"\xc1\x01x",
    "an unknown opcode": b"\x83\x00",
    "a masked frame": b"\x81\x81aaaax",
    "the rest of no message": b"\x80\x01x",
    "a message within another": b"\x01\x01a\x81\x01b",
    "a ping in pieces": b"\x09\x00",
    "a ping that is too long": b"\x89\x7e\x00\x80" + bytes(128),
}
_STATUSES: dict[int, tuple[type[FeedError], bool]] = {
    400: (ConnectionFailed, False),
    403: (Throttled, True),
    404: (ConnectionFailed, False),
    418: (Throttled, True),
    429: (Throttled, True),
    503: (Throttled, True),
    520: (Throttled, True),
}
_NO_ADDRESSES = ("nonsense://x/ws", "ws://", "ws://[::1/ws", "ws://x:port/")
_SIZES = (0, 1, 125, 126, 127, 65535, 65536, 300_000)


async def _left(client: FakeClient) -> ws.Event:
    """Wait for the client's close frame; return it."""
    while not isinstance(event := await client.receive(), ws.CloseConnection):
        pass
    return event


class TransportContract(Proving):
    """Everything that a transport promises. Inherit from it in a class whose name begins with ``Test``.

    It is read in both ways that the session knows, where it offers both, on every event loop.
    """

    kind = "transport"
    guarantees = TRANSPORT

    transport: str  #: the name of its entry point

    def name(self) -> str:
        """Return the name of the plugin."""
        return self.transport

    def registry(self) -> Registry:
        """Return the plugins among which the transport is found."""
        return Registry()

    @asynccontextmanager
    async def dialling(self, network: Network) -> AsyncIterator[Dial]:
        """Return the way to dial, as the hook does."""
        registry = self.registry()
        registry.load(self.transport)
        feed = Feed("contract", "contract", clock=SystemClock(), network=network)
        yield registry.call(self.transport, "transport", feed=feed)

    @pytest.mark.parametrize("word", TRANSPORT)
    def test_it_keeps(self, word: str) -> None:
        """Each of the guarantees."""
        self.prove(word, "")

    def test_the_committed_level_is_the_one_that_is_proven(
        self, request: pytest.FixtureRequest
    ) -> None:
        """What the package says of itself is what was just shown."""
        self.level(request)

    # ------------------------------------------------------------------------------- how each goes

    def check(self, word: str, place: str) -> None:
        """Prove one guarantee. Raises Broken or Lacking."""
        check = getattr(self, f"_{word}")
        if word == "backends":
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
        async def named() -> frozenset[str]:
            async with self.dialling(Network()) as dial:
                return frozenset(getattr(dial, "backends", BACKENDS))

        backends = anyio.run(named)
        return [one for one in BACKENDS if one in backends]

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
        self, script: Script, look: Callable[[Reader, Link], Awaitable[None]], **more: Any
    ) -> None:
        """Have *look* look at what a venue that runs *script* sends, in each way of reading."""
        async with self._dialled(FakeVenue(script), **more) as link:
            await look(Reader(link, "receive"), link)
        if isinstance(link, PushLink):
            async with self._dialled(FakeVenue(script), **more) as link:
                await look(Reader(link, "deliver"), link)

    async def _order(self) -> None:
        texts = [f"{n:06d}" + "x" * size for n, size in enumerate(_SIZES)]
        texts += [f"{n}" for n in range(3000)]
        wire = b"".join(framed(text.encode()) for text in texts)
        cuts = [*range(1, 400), *range(400, len(wire), 7001), len(wire)]

        async def script(client: FakeClient) -> None:
            for start, stop in zip([0, *cuts], cuts, strict=False):
                await client.send_bytes(wire[start:stop])
            await _left(client)

        async def look(reader: Reader, link: Link) -> None:
            await reader.count(len(texts))
            _same(texts, reader)

        await self._read(script, look)

    async def _together(self) -> None:
        texts = [f'{{"n":{n}}}' for n in range(500)]

        async def script(client: FakeClient) -> None:
            await client.send(*texts)
            await _left(client)

        async def look(reader: Reader, link: Link) -> None:
            await reader.count(len(texts))
            _same(texts, reader)
            if len(reader.batches) > 50:
                raise ContractViolation(
                    f"one write of 500 messages was {len(reader.batches)} batches"
                )

        await self._read(script, look)

    async def _pieces(self) -> None:
        async def script(client: FakeClient) -> None:
            await client.send_bytes(
                framed(b"", 0x01) + framed(b"ab", 0x00) + framed(b"?", 0x89) + framed(b"c", 0x80)
                + framed(b"d", 0x82)
            )  # fmt: skip
            await _left(client)

        async def look(reader: Reader, link: Link) -> None:
            await reader.count(2)
            _same(["abc", "d"], reader)

        await self._read(script, look)
        half = bytes(MAX_MESSAGE_BYTES // 2 + 1)
        await self._closed_on(framed(half, 0x01) + framed(half, 0x80), 1009, "two large fragments")
        await self._closed_on(
            framed(b"")[:1] + b"\x7f" + (MAX_MESSAGE_BYTES + 1).to_bytes(8, "big"),
            1009,
            "its header",
        )

    async def _closed_on(self, bad: bytes, code: int, what: str) -> None:
        """Have a message come, then what is *bad*; Broken where it is not closed on with *code*."""
        closes: list[ws.Event] = []

        async def script(client: FakeClient) -> None:
            await client.send_bytes(framed(b"good"))
            await client.send_bytes(bad)
            with anyio.move_on_after(PATIENCE):
                closes.append(await _left(client))

        async def look(reader: Reader, link: Link) -> None:
            lost = await reader.end()
            _same(["good"], reader)
            if lost.code != code:
                raise ContractViolation(
                    f"{what}: the end was told with {lost.code}, expected {code}: {lost}"
                )

        closes.clear()
        await self._read(script, look)
        if not closes or any(getattr(one, "code", None) != code for one in closes):
            raise ContractViolation(
                f"{what}: the venue was told {closes}, expected a close frame with {code}"
            )

    async def _control(self) -> None:
        pongs: list[bytes] = []

        async def script(client: FakeClient) -> None:
            await client.send_bytes(framed(b"1699", 0x89))
            answer = await client.receive()
            pongs.append(bytes(answer.payload) if isinstance(answer, ws.Pong) else b"")
            await client.send_bytes(framed(b"x") + framed(b"", 0x8A))
            await _left(client)

        async def look(reader: Reader, link: Link) -> None:
            await reader.until(lambda: reader.batches.count([]) == 2)
            if reader.batches != [[], [b"x"], []]:
                raise ContractViolation(
                    "a ping, then a message with a pong in one read, were handed over as"
                    f" {reader.batches}; expected [], ['x'] and []: an empty batch tells of each."
                )

        await self._read(script, look)
        if set(pongs) != {b"1699"}:
            raise ContractViolation(f"a ping with the payload '1699' was answered with {pongs}")

    async def _farewell(self) -> None:
        async def script(client: FakeClient) -> None:
            await client.send("last")
            await client.send_bytes(framed(b"x") + framed(b"\x0f\xa1bye", 0x88))
            await _left(client)

        async def look(reader: Reader, link: Link) -> None:
            lost = await reader.end()
            _same(["last", "x"], reader)
            if lost.code != 4001 or "bye" not in str(lost):
                raise ContractViolation(
                    f"the venue closed with 4001 'bye', and this was told: {lost}"
                )
            try:
                await link.send("too late")
            except ConnectionLost:
                return
            raise ContractViolation(
                "a text was sent on a connection that has ended, and nothing was raised"
            )

        await self._read(script, look)

    async def _broken(self) -> None:
        for what, bad in _BROKEN.items():
            await self._closed_on(bad, 1002, what)

    async def _torn(self) -> None:
        async def script(client: FakeClient) -> None:
            await client.send_bytes(framed(b"x") + framed(b"half")[:3])

        async def look(reader: Reader, link: Link) -> None:
            await reader.end()
            _same(["x"], reader)

        await self._read(script, look)

    async def _sends(self) -> None:
        large = "é" * 200_000
        came: list[Any] = []

        async def script(client: FakeClient) -> None:
            came.append(client.head.lower())
            came.append(await client.receive_text())
            text = ""
            while len(text) < len(large):
                text += await client.receive_text()
            came.append(text)
            came.append(type(await client.receive()))
            await client.send("done")
            await _left(client)

        headers = {"X-Key": "k-1"}
        async with self._dialled(FakeVenue(script), headers=headers) as link:
            await link.send("subscribe")
            await link.send(large)
            await link.ping()
            await Reader(link, "receive").count(1)
        head = came[0]
        missing = [part for part in (b"\r\nx-key: k-1", b"\r\nuser-agent: ") if part not in head]
        if missing or b"permessage" in head:
            raise ContractViolation(f"the request lacks {missing}, or offers to compress: {head!r}")
        if came[1:] != ["subscribe", large, ws.Ping]:
            raise ContractViolation(
                f"a text, a large one and a ping were sent; {came[1:]!r:.200} came"
            )

    async def _waits(self) -> None:
        """Let the venue send without end, and take nothing: it has to wait."""
        sent, size = [0], 100_000
        most = 128 * 1024 * 1024  # more than the machine's own buffers hold

        async def script(client: FakeClient) -> None:
            sent[0] = 0
            while True:
                await client.send_bytes(framed(f"{sent[0]:09d}".encode() + bytes(size)))
                sent[0] += 1

        async def stuck() -> None:
            before = -1
            while sent[0] != before:
                before = sent[0]
                if before * size > most:
                    raise ContractViolation(
                        f"{before * size >> 20} MiB were read, and nobody had taken any"
                    )
                await anyio.sleep(0.2)

        async def look(reader: Reader, link: Link) -> None:
            await stuck()
            await reader.until(lambda: bool(reader.messages), slowly=None)
            once: list[int] = []

            async def slowly() -> None:
                if not once:
                    once.append(1)
                    await stuck()

            await reader.until(lambda: len(reader.messages) > 200, slowly)
            numbers = [int(one[:9]) for one in reader.messages]
            if numbers != [*range(len(numbers))]:
                raise ContractViolation("messages were lost or disordered while nobody took them")

        await self._read(script, look)

    async def _leaving(self) -> None:
        closes: list[ws.Event] = []
        told = anyio.Event()

        async def farewell(client: FakeClient) -> None:
            closes.append(await _left(client))
            told.set()

        async def deaf(client: FakeClient) -> None:
            # A stream that has waited for something to read does not read by itself any longer.
            await client.send("ready")
            await client.receive_text()
            await anyio.sleep_forever()

        async with FakeVenue(farewell).serve() as venue, self.dialling(Network()) as dial:
            async with dial(Endpoint(url=venue.url())):
                pass
            with anyio.move_on_after(PATIENCE):
                await told.wait()
        if [getattr(one, "code", None) for one in closes] != [1000]:
            raise ContractViolation(
                f"leaving told the venue {closes}, expected a close frame with 1000"
            )
        async with FakeVenue(deaf).serve() as venue, self.dialling(Network()) as dial:
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
                f"a venue that reads nothing held up the leaving for {took:.1f} s"
            )

    async def _cancelled(self) -> None:
        go = [anyio.Event()]

        async def script(client: FakeClient) -> None:
            await go[0].wait()
            await client.send("x")
            await _left(client)

        async def look(reader: Reader, link: Link) -> None:
            for _ in range(3):
                with anyio.move_on_after(0.01):
                    await reader.end()
            go[0].set()
            await reader.count(1)
            go[0] = anyio.Event()

        await self._read(script, look)
        ended = anyio.Event()

        async def mute(stream: anyio.abc.ByteStream) -> None:
            async with stream:
                with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                    while True:
                        await stream.receive()
                ended.set()

        async with _listening(mute) as port, self.dialling(Network()) as dial:
            with anyio.move_on_after(0.3):
                async with dial(Endpoint(url=f"ws://127.0.0.1:{port}")):
                    raise ContractViolation(
                        "a connection was open before its handshake was answered"
                    )
            with anyio.move_on_after(2):
                await ended.wait()
        if not ended.is_set():
            raise ContractViolation("a dial was cancelled, and its connection is still open")

    # ------------------------------------------------------------------------- what does not come about

    async def _refusals(self) -> None:
        for status, (kind, retryable) in _STATUSES.items():
            venue = FakeVenue(_left, upgrade=(status, {"Retry-After": "7"}, b"no"))
            async with venue.serve():
                error = await self._failure(venue.url(), kind, retryable, str(status))
            if isinstance(error, Throttled) and error.retry_after_seconds != 7:
                raise ContractViolation(
                    f"HTTP {status} with retry-after 7 told {error.retry_after_seconds}"
                )
        async with FakeVenue(_left, upgrade=(503, {}, b"no")).serve() as down:
            await self._failure(down.url(), ConnectionFailed, True, "503")
        async with FakeVenue(_left).serve() as gone:
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
            raise ContractViolation(f"a header that cannot be sent is told with its value: {error}")

    async def _failure(
        self, to: str | Endpoint, kind: type[FeedError], retryable: bool | None, part: str,
        network: Network | None = None,
    ) -> FeedError:  # fmt: skip
        """Return how a dial fails. Raises Broken where that is not as it should be."""
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
                    f" Expected {kind.__name__}, retryable {retryable}, that says {part!r}."
                ) from error
            return error
        raise ContractViolation(f"{endpoint.url} was dialled, and cannot be")

    async def _network(self) -> None:
        with _certified() as (context, ca):
            venue = FakeVenue(_left, context=context)
            async with venue.serve():
                await self._failure(venue.url(), ConnectionFailed, False, 'ca = "file.pem"')
            async with self._dialled(FakeVenue(_speaking, context=context), Network(ca=ca)) as link:
                await Reader(link, "receive").count(1)
            served: list[bytes] = []
            async with tunnel(served) as proxy:
                network = Network(ca=ca, proxy=proxy)
                venue = FakeVenue(_speaking, context=context)
                async with self._dialled(venue, network) as link:
                    await Reader(link, "receive").count(1)
            if not served:
                raise ContractViolation(
                    "the stack names a proxy, and the connection did not go through it"
                )

    def _backends(self) -> None:
        loops = self._loops()
        for backend in BACKENDS:
            if importlib.util.find_spec(backend) is None:
                raise NotApplicable(f"{backend} is not installed", here=True)
            if backend in loops:
                name, options = virtual_backend(backend)
                anyio.run(self._silent, backend=name, backend_options=options)
                continue
            try:
                anyio.run(self._opened, backend=backend)
            except BackendUnsupported as error:
                if error.plugin == self.name():
                    continue
            raise ContractViolation(f"it does not name {backend}, and was not refused on it")

    async def _silent(self) -> None:
        """Dial a server that never answers: it is given up."""

        async def mute(stream: anyio.abc.ByteStream) -> None:
            async with stream:
                await anyio.sleep_forever()

        async with _listening(mute) as port, self.dialling(Network()) as dial:
            try:
                with anyio.fail_after(60):
                    async with dial(Endpoint(url=f"ws://127.0.0.1:{port}")):
                        pass
            except ConnectionFailed as error:
                if "did not answer in time" in str(error):
                    return
                raise ContractViolation(
                    f"a server never answered, and this was told: {error}"
                ) from error
            except TimeoutError:
                raise ContractViolation(
                    "a server never answered, and was waited for without end"
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


def _same(texts: Sequence[str], reader: Reader) -> None:
    """Raise Broken where something else has come."""
    got = [one.decode() for one in reader.messages]
    if got != list(texts):
        at = next((n for n, two in enumerate(zip(texts, got, strict=False)) if two[0] != two[1]), 0)
        raise ContractViolation(
            f"{len(texts)} messages were sent and {len(got)} came, first unlike at {at}:"
            f" {texts[at : at + 1]!r:.80} became {got[at : at + 1]!r:.80}"
        )


async def _speaking(client: FakeClient) -> None:
    await client.send("hello")
    await _left(client)


async def _answering(answer: bytes, stream: anyio.abc.ByteStream) -> None:
    async with stream:
        await stream.receive()
        await stream.send(answer or b"")


@asynccontextmanager
async def _listening(serve: Callable[[Any], Awaitable[None]]) -> AsyncIterator[int]:
    """Run a server that speaks no WebSocket; return its port."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        yield listener.extra(anyio.abc.SocketAttribute.local_port)
        tasks.cancel_scope.cancel()


@contextmanager
def _certified() -> Iterator[tuple[ssl.SSLContext, str]]:
    """Return a server's context, and the file with the authority that vouches for it."""
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
