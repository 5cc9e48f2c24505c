"""A venue that only sends: frames made beforehand, as fast as they are taken or at a pace.

It speaks as much of Binance's protocol as its clients ask for: streams in the address or by message,
the list of symbols and a book over REST. Sending begins on every connection when nobody has asked
for anything for a while. Whoever connects gets only the streams that it asked for.

Prints its address as JSON when it is ready. ``GET /stamps`` gives when each frame of the latest
paced sending went out, in ns of the monotonic clock that all processes share.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import re
import socket
import ssl
import sys
import threading
import time
from array import array
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

sys.path.insert(0, str(Path(__file__).parent))
import frames

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_QUIET = 0.5  # seconds without a subscription, after which sending begins
_CHUNK = 256 * 1024


class Firehose:
    """WebSocket server that sends the synthetic frames of the subscribed streams to each client."""

    def __init__(
        self, count: int, symbols: int, changes: int, rate: float, per_second: int, *, records: bool
    ) -> None:
        # The last trade happens about now, so that nobody's clock is years away from the venue's.
        start = int(time.time() * 1000) - count * 1000 // per_second
        self.symbols = symbols
        self.rate = rate
        self.records = records  #: one TLS record per frame, as venues send them
        self.group = 1  #: frames of a paced sending that go out together
        self.frames: list[tuple[str, bytes]] = []
        for trade_data in frames.synthetic_trades(
            count, symbols, start=start, per_second=per_second
        ):
            name = frames.native(trade_data.symbol).lower()
            self.frames.append((f"{name}@trade", frames.framed(frames.trade(trade_data))))
            self.frames.append((f"{name}@aggTrade", frames.framed(frames.agg_trade(trade_data))))
        book = f"{frames.native(0).lower()}@depth@100ms"
        start = int(time.time() * 1000) - changes * 100
        self.frames += [
            (book, frames.framed(change)) for change in frames.changes(changes, start=start)
        ]
        self.stamps = array("q")
        self._frames_by_streams: dict[frozenset[str], list[bytes]] = {}
        self._joined: dict[frozenset[str], bytes] = {}
        self._lock = threading.Lock()
        self._last_request = time.monotonic()

    def frames_of(self, streams: Iterable[str]) -> list[bytes]:
        """Return the frames of these streams, in order."""
        key = frozenset(streams)
        with self._lock:
            if key not in self._frames_by_streams:
                self._frames_by_streams[key] = [frame for name, frame in self.frames if name in key]
            return self._frames_by_streams[key]

    def joined(self, streams: Iterable[str]) -> bytes:
        """Return the frames of these streams joined into a single byte string."""
        key = frozenset(streams)
        selected = self.frames_of(key)
        with self._lock:
            if key not in self._joined:
                self._joined[key] = b"".join(selected)
            return self._joined[key]

    # --------------------------------------------------------------------------------- a connection

    def serve(self, connection: socket.socket, context: ssl.SSLContext | None) -> None:
        """Serve one client until it disconnects."""
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if context is not None:
                connection = context.wrap_socket(connection, server_side=True)
            self._serve(Peer(connection))
        except (EOFError, OSError):
            pass
        finally:
            connection.close()

    def _serve(self, peer: Peer) -> None:
        while True:
            head = peer.head()
            path = head.split(" ", 2)[1]
            key = re.search(r"(?i)^sec-websocket-key: *(\S+)", head, re.MULTILINE)
            if key is not None:
                break
            peer.respond(self._rest_body(path))
        digest = hashlib.sha1(f"{key[1]}{_GUID}".encode()).digest()
        accept = base64.b64encode(digest).decode()
        peer.send(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode()
        )
        named = parse_qs(urlsplit(path).query).get("streams", [""])[0]
        streams = {name for name in named.split("/") if name}
        self._record_activity()
        self._read_subscriptions(peer, streams)
        self._send_all(peer, streams)
        while peer.read() is not None:
            pass

    def _rest_body(self, path: str) -> bytes | None:
        if "exchangeInfo" in path:
            return frames.listing(self.symbols)
        if "/depth" in path:
            return frames.snapshot()
        if path == "/stamps":
            return json.dumps(list(self.stamps)).encode()
        return None

    def _record_activity(self) -> None:
        self._last_request = time.monotonic()

    def _read_subscriptions(self, peer: Peer, streams: set[str]) -> None:
        """Add subscribed streams to *streams* until no client has sent a request for `_QUIET` seconds."""
        while not streams or time.monotonic() - self._last_request < _QUIET:
            text = peer.read(within=0.05)
            if not text:
                continue
            self._record_activity()
            message = json.loads(text)
            if message.get("method") == "SUBSCRIBE":
                streams.update(message["params"])
            peer.send(frames.framed(json.dumps({"result": None, "id": message.get("id")}).encode()))

    def _send_all(self, peer: Peer, streams: set[str]) -> None:
        if self.rate:
            self._send_paced(peer, self.frames_of(streams))
        elif self.records:
            for frame in self.frames_of(streams):
                peer.send(frame)
        else:
            piece = memoryview(self.joined(streams))
            for start in range(0, len(piece), _CHUNK):
                peer.send(piece[start : start + _CHUNK])

    def _send_paced(self, peer: Peer, selected: list[bytes]) -> None:
        """Send each group of frames at the due time of its first, and record the send times in `stamps`."""
        now, period, stamps = time.perf_counter_ns, 1e9 / self.rate, array("q")
        started = now()
        for number in range(0, len(selected), self.group):
            group = selected[number : number + self.group]
            due = started + number * period
            # Busy-wait for the rest: `time.sleep` is too coarse.
            if (wait := due - now()) > 200_000:
                time.sleep((wait - 150_000) / 1e9)
            while now() < due:
                pass
            stamps.extend([now()] * len(group))
            peer.send(b"".join(group))
        self.stamps = stamps


class Peer:
    """The server's end of one connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._held = b""

    def send(self, data: bytes | memoryview) -> None:
        """Send it all."""
        self._socket.sendall(data)

    def respond(self, body: bytes | None) -> None:
        """Answer a request over HTTP."""
        status = "200 OK" if body is not None else "404 Not Found"
        body = body or b"{}"
        self.send(
            f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )

    def _more(self) -> None:
        data = self._socket.recv(65536)
        if not data:
            raise EOFError
        self._held += data

    def head(self) -> str:
        """Return the head of the next request."""
        while b"\r\n\r\n" not in self._held:
            self._more()
        head, _, self._held = self._held.partition(b"\r\n\r\n")
        return head.decode()

    def read(self, within: float | None = None) -> bytes | None:
        """Return the next text, b"" where none came in time, None when the client closes."""
        self._socket.settimeout(within)
        try:
            while (frame := self._frame()) is None:
                self._more()
        except TimeoutError:
            return b""
        finally:
            self._socket.settimeout(None)
        opcode, payload = frame
        if opcode == 0x9:
            self.send(bytes((0x8A, len(payload))) + payload)
        elif opcode == 0x8:
            self.send(bytes((0x88, len(payload))) + payload)
            return None
        return payload if opcode == 0x1 else b""

    def _frame(self) -> tuple[int, bytes] | None:
        """Take one masked frame out of what is held, None where it is not whole."""
        held = self._held
        if len(held) < 2:
            return None
        size, start = held[1] & 0x7F, 2
        if size == 126:
            size, start = int.from_bytes(held[2:4], "big"), 4
        elif size == 127:
            size, start = int.from_bytes(held[2:10], "big"), 10
        stop = start + 4 + size
        if len(held) < stop:
            return None
        mask = held[start : start + 4]
        payload = bytes(byte ^ mask[n & 3] for n, byte in enumerate(held[start + 4 : stop]))
        self._held = held[stop:]
        return held[0] & 0x0F, payload


def main() -> None:
    """Serve until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200_000, help="trades in all")
    parser.add_argument("--symbols", type=int, default=10)
    parser.add_argument("--changes", type=int, default=0, help="changes of the first symbol's book")
    parser.add_argument(
        "--rate", type=float, default=0, help="frames a second; 0: as fast as can be"
    )
    parser.add_argument("--per-second", type=int, default=500, help="trades a second of event time")
    parser.add_argument("--group", type=int, default=1, help="paced frames that go out together")
    parser.add_argument("--tls", type=Path, help="a folder with cert.pem and key.pem")
    parser.add_argument("--cpu", type=int, help="the processor to stay on")
    given = parser.parse_args()
    if given.cpu is not None:
        os.sched_setaffinity(0, {given.cpu})
    sys.setswitchinterval(0.0005)
    context = None
    if given.tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(given.tls / "cert.pem", given.tls / "key.pem")
    firehose = Firehose(
        given.count,
        given.symbols,
        given.changes,
        given.rate,
        given.per_second,
        records=context is not None,
    )
    firehose.group = given.group
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    scheme = "wss" if context else "ws"
    print(json.dumps({"url": f"{scheme}://127.0.0.1:{listener.getsockname()[1]}"}), flush=True)

    def accept() -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=firehose.serve, args=(connection, context), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    sys.stdin.read()  # whoever started us ends us by closing it


if __name__ == "__main__":
    main()
