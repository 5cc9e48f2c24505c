"""The guarantees of a transport about dials: refusals, certificates, proxies, event loops, timeouts."""

from __future__ import annotations

import importlib.util
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import anyio
import tapeloom
from tapeloom import FeedSpec, Stack
from tapeloom.errors import BackendUnsupported, ConnectionFailed, FeedError, Throttled
from tapeloom.harness import BACKENDS
from tapeloom.plugin import Endpoint, Network

from tapeloom_testing.contract.declared import ContractViolation, NotApplicable
from tapeloom_testing.contract.null_venue import NullVenue
from tapeloom_testing.contract.readers import PATIENCE, Reader, tunnel
from tapeloom_testing.fakevenue import FakeClient, FakeVenue
from tapeloom_testing.virtual import virtual_backend

from .links import Links, close_frame, listening

__all__ = ["Failures"]

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


class Failures(Links):
    """Tests of dials, most of which are to fail; each is one guarantee."""

    async def _refusals(self) -> None:
        for status, (kind, retryable) in _STATUSES.items():
            venue = FakeVenue(close_frame, upgrade=(status, {"Retry-After": "7"}, b"no"))
            async with venue.serve():
                error = await self._failure(venue.url(), kind, retryable, str(status))
            if isinstance(error, Throttled) and error.retry_after_seconds != 7:
                raise ContractViolation(
                    f"HTTP {status} with Retry-After 7: expected retry_after_seconds 7, got"
                    f" {error.retry_after_seconds}"
                )
        async with FakeVenue(close_frame, upgrade=(503, {}, b"no")).serve() as down:
            await self._failure(down.url(), ConnectionFailed, True, "503")
        async with FakeVenue(close_frame).serve() as gone:
            pass
        await self._failure(gone.url(), ConnectionFailed, True, "refused the connection")
        await self._failure("ws://nowhere.invalid/ws", ConnectionFailed, True, "nowhere.invalid")
        for url in _NO_ADDRESSES:
            await self._failure(url, ConnectionFailed, False, "wss://")
        for answer in (b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"):
            async with listening(partial(_answering, answer)) as port:
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
            venue = FakeVenue(close_frame, context=context)
            async with venue.serve():
                await self._failure(venue.url(), ConnectionFailed, False, 'ca = "file.pem"')
            async with self.dialled(FakeVenue(_greeting, context=context), Network(ca=ca)) as link:
                await Reader(link, "receive").count(1)
            served: list[bytes] = []
            async with tunnel(served) as proxy:
                network = Network(ca=ca, proxy=proxy)
                venue = FakeVenue(_greeting, context=context)
                async with self.dialled(venue, network) as link:
                    await Reader(link, "receive").count(1)
            if not served:
                raise ContractViolation(
                    "the stack configures a proxy, but the connection did not go through it"
                )

    def _backends(self) -> None:
        loops = self.loops()
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

        async with listening(unresponsive) as port, self.dialling(Network()) as dial:
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


async def _greeting(client: FakeClient) -> None:
    await client.send("hello")
    await close_frame(client)


async def _answering(answer: bytes, stream: anyio.abc.ByteStream) -> None:
    async with stream:
        await stream.receive()
        await stream.send(answer or b"")


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
