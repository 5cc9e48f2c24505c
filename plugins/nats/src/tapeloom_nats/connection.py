"""A connection to NATS that fails instead of waiting: no reconnect, and a limit for every answer.

The client of nats-py reconnects by itself and leaves its futures pending when a message is refused or the
connection ends. Here each request has a reply subject of ours, and whatever ends the connection ends the
wait for all replies.
"""

from __future__ import annotations

import asyncio  # noqa: TID251 nats-py runs on nothing else
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from tapeloom.errors import SinkRefused, SinkUnavailable

from .messages import Message
from .settings import Settings

__all__ = ["EXPECTED_LAST", "NOT_ENABLED", "WRONG_LAST", "ApiError", "Connection", "answer"]

#: Bytes that are collected before the loop sends them.
_SEND_BYTES = 131_072
#: Messages that are read at a time.
_READ = 500
#: Seconds in which a connection is closed in order; after that it is aborted.
_CLOSE_SECONDS = 1.0
#: Status of a message that nobody listens to: no stream has its subject, or the stream has no leader.
_NO_RESPONDERS = "503"
#: JetStream's number of the error that it is off.
NOT_ENABLED = 10076
#: The header with the number of the last message of the subject; the server stores a message only if it has
#: this one, and otherwise refuses it with the error WRONG_LAST.
EXPECTED_LAST, WRONG_LAST = "Nats-Expected-Last-Subject-Sequence", 10071


class ApiError(Exception):
    """JetStream answered with an error. `code` is its `err_code`."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        self.code = int(error.get("err_code", 0))
        self.text = str(error.get("description", "unknown error"))
        super().__init__(self.text)


class Connection:
    """A connection to one of the servers. Every method raises SinkUnavailable or SinkRefused."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._seconds = settings.timeout / 1e9
        self._client = Client()
        self._inbox = ""  #: empty until the connection is open
        self._notify: Callable[[], None] = lambda: None
        self._failure: SinkUnavailable | SinkRefused | None = None
        self._last_error: Exception | None = None
        # The exchange that is waited for: replies by number, and how many are missing.
        self._first = self._next = 0
        self._replies: dict[int, Msg] = {}
        self._is_sent = False
        self._done: asyncio.Future[None] | None = None
        self._deadline: asyncio.Timeout | None = None

    @property
    def server(self) -> str:
        """Version and address of the server."""
        version = repr(self._client.connected_server_version)
        number = version.removeprefix("<nats server v").removesuffix(">")
        url = self._client.connected_url
        return (
            f"nats-server {number} at {url.hostname}:{url.port}" if url else f"nats-server {number}"
        )

    @property
    def max_payload(self) -> int:
        """The maximum size of a message, headers included, in bytes."""
        return self._client.max_payload

    async def open(self) -> None:
        """Connect and log in."""
        settings = self._settings
        try:
            if settings.credentials:  # nats-py reads them where a server asks for them
                Path(settings.credentials).read_bytes()  # noqa: ASYNC240 a small local file
            async with asyncio.timeout(self._seconds * (1 + len(settings.servers))):
                await self._client.connect(
                    list(settings.servers),
                    error_cb=self._on_error,
                    disconnected_cb=self._on_disconnect,
                    name="tapeloom",
                    allow_reconnect=False,
                    max_reconnect_attempts=1,  # nats-py has no smaller number: 0 means for ever
                    reconnect_time_wait=0,
                    connect_timeout=self._seconds,  # type: ignore[arg-type]  # seconds may be a fraction
                    user=settings.user or None,
                    password=settings.password.reveal() if settings.password else None,
                    token=settings.token.reveal() if settings.token else None,
                    user_credentials=settings.credentials or None,
                    tls=_tls(settings),
                    skip_subject_validation=True,  # ours are valid, and the check costs a tenth
                )
                self._inbox = self._client.new_inbox() + "."
                await self._client.subscribe(self._inbox + "*", cb=self._on_reply)
                # `exchange` does not wait for what nats-py has yet to send.
                await self._client.flush()
        except (nats.errors.Error, OSError, ImportError, ValueError) as error:
            self._raise(error)

    def _raise(self, error: Exception) -> NoReturn:
        """Raise what a failed attempt to connect means."""
        cause = self._last_error if isinstance(error, nats.errors.NoServersError) else error
        cause = cause or error
        text = str(cause).removeprefix("nats: ").strip("'") or type(cause).__name__
        where = ", ".join(self._settings.servers)
        if "authorization" in text.lower() or "authentication" in text.lower():
            raise SinkRefused(
                f"NATS at {where} refused the login: {text}. Check user and password, token, or"
                " credentials."
            ) from None
        if isinstance(cause, ssl.SSLError):
            raise SinkRefused(
                f"the TLS connection to NATS at {where} failed: {text}. Check ca, certificate and key."
            ) from None
        if isinstance(cause, ImportError):
            raise SinkRefused(
                "credentials need the package nkeys. Install tapeloom-nats[nkeys] with pip."
            ) from None
        if isinstance(cause, FileNotFoundError | PermissionError | ValueError):
            raise SinkRefused(
                f"the credentials cannot be read: {text}. Check credentials."
            ) from None
        if isinstance(cause, TimeoutError):
            text = f"no answer within {self._seconds:g} s"
        raise SinkUnavailable(
            f"NATS cannot be reached at {where}: {text}. Start the server, or check servers."
        ) from None

    async def exchange(self, messages: Iterable[Message]) -> list[Msg]:
        """Publish messages without waiting between them, and return the reply to each of them."""
        self._first, self._replies = self._next, {}
        self._done = done = asyncio.get_running_loop().create_future()
        frames: list[bytes] = []
        unsent = 0
        try:
            async with asyncio.timeout(self._seconds) as self._deadline:
                self._check()
                for message in messages:
                    frames.append(message.to_frame(f"{self._inbox}{self._next}"))
                    self._next += 1
                    unsent += len(frames[-1])
                    if unsent > _SEND_BYTES:  # the server works while we encode the next ones
                        await self._write(frames)
                        frames, unsent = [], 0
                        await asyncio.sleep(0)
                await self._write(frames)
                self._is_sent = True
                self._finish()
                await done
        except TimeoutError:
            raise self._failure or SinkUnavailable(
                f"NATS did not answer within {self._seconds:g} s. If this repeats, check the load of the"
                " server and whether the stream has a leader, or raise timeout."
            ) from None
        except (nats.errors.Error, OSError) as error:
            raise self._failure or SinkUnavailable(
                f"NATS did not take a message: {error}. Check the server's log."
            ) from None
        finally:
            if done.done() and not done.cancelled():
                done.exception()  # it was raised, or another one was
            self._done = self._deadline = None
            self._is_sent = False
        return [self._replies[number] for number in range(self._first, self._next)]

    async def _write(self, frames: list[bytes]) -> None:
        """Send frames as they are: nats-py's `publish` takes more than twice as long."""
        transport = self._client._transport  # noqa: SLF001
        if transport is None:
            raise OSError("there is no connection")
        transport.writelines(frames)
        await transport.drain()  # type: ignore[no-untyped-call]

    async def call(self, method: str, request: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Call a method of JetStream's API and return its answer. Raises ApiError."""
        body = msgspec.json.encode(request) if request else b""
        (reply,) = await self.exchange([Message(f"$JS.API.{method}", {}, body)])
        try:
            return answer(reply)
        except ApiError as error:
            if error.code == int(_NO_RESPONDERS):  # each server with JetStream listens to its API
                error.code = NOT_ENABLED
            raise

    async def read(
        self, stream: str, subject: str, *, first: int, last: int
    ) -> AsyncIterator[tuple[int, Msg]]:
        """Yield the messages of a subject, with their numbers in the stream, from *first* to *last*.

        *last* is the number of a message of the subject. Raises ApiError.
        """
        context = self._client.jetstream(timeout=self._seconds)
        config = ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=first,
            ack_policy=AckPolicy.NONE,
            inactive_threshold=30.0,
            mem_storage=True,
            num_replicas=1,
        )
        try:
            subscription = await context.pull_subscribe(subject, stream=stream, config=config)
            number = 0
            while number < last:
                self._check()
                for message in await subscription.fetch(_READ, timeout=self._seconds):
                    number = message.metadata.sequence.stream
                    yield number, message
            await subscription.unsubscribe()
        except (nats.errors.Error, OSError) as error:
            raise self._failure or SinkUnavailable(
                f"the stream {stream!r} cannot be read: {error}. Check the server's log."
            ) from None

    async def subscribe(self, subject: str, on_message: Callable[[Msg], Awaitable[None]]) -> None:
        """Call *on_message* with each message of a subject, until the connection ends."""
        self._check()
        # Without limits: a reader requests no more messages than it takes.
        await self._client.subscribe(
            subject, cb=on_message, pending_msgs_limit=-1, pending_bytes_limit=-1
        )
        await self._client.flush()

    async def send(self, subject: str, body: bytes = b"", reply: str = "") -> None:
        """Publish a message without waiting for an answer."""
        self._check()
        try:
            await self._client.publish(subject, body, reply)
        except (nats.errors.Error, OSError) as error:
            raise self._failure or SinkUnavailable(
                f"NATS did not take a message: {error}. Check the server's log."
            ) from None

    def on_failure(self, notify: Callable[[], None]) -> None:
        """Call *notify* when the connection has ended; `check` then raises why."""
        self._notify = notify

    def check(self) -> None:
        """Raise SinkUnavailable or SinkRefused if the connection has ended."""
        self._check()

    def new_inbox(self) -> str:
        """Return a subject that nobody else has."""
        return self._client.new_inbox()

    async def close(self) -> None:
        """Close the connection; after a second it is aborted."""
        self._failure = SinkUnavailable("the connection to NATS is closed.")
        if self._inbox:
            try:
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await self._client.close()
            except (nats.errors.Error, OSError, TimeoutError):
                pass  # it is aborted
        # nats-py cannot abort a connection that hangs, and its socket would be left open.
        writer = getattr(self._client._transport, "_io_writer", None)  # noqa: SLF001
        if writer is not None:
            writer.transport.abort()
            await asyncio.sleep(0)

    def _check(self) -> None:
        """Raise what has ended the connection, if anything has."""
        if self._failure is not None:
            raise self._failure

    async def _on_reply(self, message: Msg) -> None:
        number = int(message.subject[len(self._inbox) :])
        if number < self._first or self._done is None or self._done.done():
            return  # the reply to an exchange that was given up
        self._replies[number] = message
        self._finish()
        if self._deadline is not None and not len(self._replies) % 64:
            self._deadline.reschedule(asyncio.get_running_loop().time() + self._seconds)

    def _finish(self) -> None:
        """End the exchange if all messages are published and answered."""
        is_complete = self._is_sent and len(self._replies) == self._next - self._first
        if is_complete and self._done is not None and not self._done.done():
            self._done.set_result(None)

    async def _on_error(self, error: Exception) -> None:
        self._last_error = error
        if "permissions violation" in str(error):
            text = str(error).removeprefix("nats: ")
            self._fail(
                SinkRefused(
                    f"NATS refuses this user a right: {text}. Grant it, or use another user."
                )
            )

    async def _on_disconnect(self) -> None:
        reason = f": {self._last_error}" if self._last_error is not None else ""
        self._fail(
            SinkUnavailable(f"the connection to NATS was lost{reason}. Check the server's log.")
        )

    def _fail(self, failure: SinkUnavailable | SinkRefused) -> None:
        if self._failure is None:
            self._failure = failure
        if self._done is not None and not self._done.done():
            self._done.set_exception(self._failure)
        self._notify()


def answer(reply: Msg) -> dict[str, Any]:
    """Return what a reply of JetStream says. Raises ApiError, also if nobody listens."""
    if not reply.data and (reply.headers or {}).get("Status") == _NO_RESPONDERS:
        raise ApiError({"err_code": int(_NO_RESPONDERS), "description": "nobody listens"})
    found: dict[str, Any] = msgspec.json.decode(reply.data)
    if "error" in found:
        raise ApiError(found["error"])
    return found


def _tls(settings: Settings) -> ssl.SSLContext | None:
    """Return how TLS connections are checked; None for the system's certificates. Raises SinkRefused."""
    if not settings.ca and not settings.certificate:
        return None
    try:
        context = ssl.create_default_context(cafile=settings.ca or None)
        if settings.certificate:
            context.load_cert_chain(settings.certificate, settings.key)
    except OSError as error:
        raise SinkRefused(
            f"ca, certificate or key cannot be read: {error}. Check these files."
        ) from None
    return context
