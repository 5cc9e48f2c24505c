"""The server over real sockets: who is let in, what is sent, and what clients cannot do to it."""

from __future__ import annotations

import json
import random
import resource
import socket
import threading
import time
from collections import deque

import httpx
import pytest
from tapeloom import Gap, Secret, decode
from tapeloom.errors import SinkRefused, SinkUnavailable
from tapeloom_serve import ServerThread, Settings, application
from tapeloom_serve.hub import Hub
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

TOKEN = "an-obvious-fake-token"
RIGHT = {"authorization": f"Bearer {TOKEN}"}


def wait_for(condition, timeout=10.0):
    """Poll until a condition of the server holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)


# ---------------------------------------------------------------------------------- what is sent


def test_a_websocket_gets_the_events_as_lines_of_json(served, make_trade, receive):
    trades = [make_trade(n) for n in range(10)]
    with served.client() as client:
        served.publish(*trades[:4])
        served.publish(*trades[4:])

        assert receive(client, 10) == trades


def test_a_get_gets_server_sent_events(served, make_trade):
    trades = [make_trade(n) for n in range(3)]
    url = f"http://{served.address}/stream?type=trade"
    with httpx.stream("GET", url, timeout=10) as response:
        lines = response.iter_lines()
        assert (next(lines), next(lines)) == (":", "")
        served.publish(*trades)
        data = [next(lines) for _ in range(4)]

    assert response.headers["content-type"].startswith("text/event-stream")
    assert [decode(line.removeprefix("data: ")) for line in data[:3]] == trades
    assert data[3] == ""


def test_arrow_clients_get_one_stream_for_each_run_of_a_type(served, make_trade):
    pa = pytest.importorskip("pyarrow")
    columns = pytest.importorskip("tapeloom_columns")
    gap = Gap("venue", "BTC/USDT", 5, 5, 1, 5, "disconnect")
    events = [make_trade(1), make_trade(2), gap, make_trade(3)]
    with served.client("?format=arrow") as client:
        served.publish(*events)
        tables = [pa.ipc.open_stream(client.recv(60)).read_all() for _ in range(3)]

    assert [event for table in tables for event in columns.to_events(table)] == events


def test_a_message_changes_what_a_client_receives(served, make_trade, receive):
    with served.client("?wait=1") as client:
        served.publish(make_trade(1, "A"))
        client.send(json.dumps({"op": "subscribe", "id": "a", "symbols": ["A"]}))
        first = json.loads(client.recv(10))
        served.publish(make_trade(2, "A"), make_trade(2, "B"))
        found = receive(client, 1)
        client.send(json.dumps({"op": "subscribe", "id": 2, "symbols": ["B"], "types": ["trade"]}))
        second = json.loads(client.recv(10))
        served.publish(make_trade(3, "A"), make_trade(3, "B"))
        found += receive(client, 1)

    assert first == {"type": "stream.subscribed", "id": "a", "snapshot": 0, "symbols": ["A"]}
    assert second["types"] == ["trade"]
    assert found == [make_trade(2, "A"), make_trade(3, "B")]


def test_the_end_of_the_stream_closes_the_clients(served, make_trade, receive):
    with served.client() as client:
        served.publish(make_trade(1))
        served.server.call(served.hub.close)

        assert receive(client, 1) == [make_trade(1)]
        with pytest.raises(ConnectionClosed) as caught:
            client.recv(10)
    assert caught.value.rcvd.code == 1001


def test_the_policy_error_disconnects_a_client_that_is_too_slow(serve, make_trade):
    served = serve()
    with served.client("?policy=error&size=10", max_queue=1) as client:
        for n in range(400):
            served.publish(*[make_trade(n * 500 + i) for i in range(500)])
        with pytest.raises(ConnectionClosed) as caught:
            while True:
                client.recv(10)

    assert caught.value.rcvd.code == 1013
    assert "fell" in caught.value.rcvd.reason


# ------------------------------------------------------------------------------------- who is let in

PATHS = ["/stream", "/", "/nothing", "/stream?type=trade", "/stream?bad=1"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {TOKEN}"},
     {"authorization": f"Bearer {TOKEN}x"}, {"authorization": "Bearer"}],
    ids=["none", "wrong", "basic", "longer", "empty"],
)  # fmt: skip
def test_without_the_token_there_is_401_and_nothing_else(serve, path, headers):
    address = serve(token=Secret(TOKEN)).address
    response = httpx.get(f"http://{address}{path}", headers=headers)
    with pytest.raises(InvalidStatus) as caught:
        connect(f"ws://{address}{path}", additional_headers=headers)

    for answer in (response, caught.value.response):
        assert answer.status_code == 401
        assert (getattr(answer, "content", None) or getattr(answer, "body", None) or b"") == b""
        assert "server" not in answer.headers


@pytest.mark.parametrize("query", [f"?token={TOKEN}", ""])
def test_the_token_is_taken_from_the_header_or_the_query(serve, query, make_trade, receive):
    served = serve(token=Secret(TOKEN))
    with served.client(query, additional_headers={} if query else RIGHT) as client:
        served.publish(make_trade(1))

        assert receive(client, 1) == [make_trade(1)]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"host": "evil.example"}, 403),
        ({"host": "evil.example:8787", "origin": "http://evil.example:8787"}, 403),
        ({"origin": "https://friend.example"}, 404),
        ({"host": "localhost:99"}, 404),
        ({"host": "[::1]:99"}, 404),
        ({}, 404),
    ],
)
def test_pages_of_other_sites_and_names_from_elsewhere_are_refused(serve, headers, status):
    address = serve(origins=("https://friend.example",)).address
    response = httpx.get(f"http://{address}/nothing", headers=headers)

    assert response.status_code == status
    assert "access-control-allow-origin" not in response.headers
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["content-security-policy"].startswith("default-src 'none'")


def test_a_websocket_of_another_site_is_refused(served):
    with pytest.raises(InvalidStatus) as caught:
        connect(f"ws://{served.address}/stream", origin="https://evil.example")

    assert caught.value.response.status_code == 403


@pytest.mark.parametrize("path", ["/stream?bad=1", "/stream?policy=block"])
def test_a_wrong_query_is_answered_in_words(served, path):
    response = httpx.get(f"http://{served.address}{path}")
    with pytest.raises(InvalidStatus) as caught:
        connect(f"ws://{served.address}{path}")

    assert (response.status_code, caught.value.response.status_code) == (400, 400)
    assert "expected" in response.text
    assert caught.value.response.body.decode() == response.text


# ----------------------------------------------------------------------- what clients cannot do to it


def test_there_are_no_more_clients_than_the_limit(serve):
    served = serve(max_clients=2)
    with served.client(), served.client():
        with pytest.raises(InvalidStatus) as caught:
            connect(f"ws://{served.address}/stream")
        assert caught.value.response.status_code == 503
    wait_for(lambda: not served.hub.clients)
    with served.client():
        pass


def test_connections_without_a_request_make_room_for_those_with_one(serve, make_trade, receive):
    served = serve(max_connections=20)
    half_open = []
    try:
        with served.client() as client:
            for n in range(200):
                half_open.append(socket.create_connection(served.address.split(":")))
                if n % 2:
                    half_open[-1].sendall(b"GET /stream HTTP/1.1\r\nHost: 127")
            wait_for(lambda: served.server.guard.aborted >= 180)
            served.publish(make_trade(1))
            assert receive(client, 1) == [make_trade(1)]
            with served.client():
                assert len(served.server.guard) <= 20
    finally:
        for connection in half_open:
            connection.close()


@pytest.mark.slow
def test_10_000_half_open_connections_are_survived(serve, make_trade, receive):
    served = serve()
    # As many as this process may have open; the oldest are closed for the others.
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 1500
    half_open = deque()
    try:
        with served.client() as client:
            for n in range(10_000):
                if len(half_open) >= limit:
                    half_open.popleft().close()
                half_open.append(socket.create_connection(served.address.split(":"), timeout=60))
                if n % 2:
                    half_open[-1].sendall(b"GET /stream HTTP/1.1\r\nHost: 127")
                if n % 500 == 0:
                    served.publish(make_trade(n))
                    assert receive(client, 1) == [make_trade(n)]
            wait_for(lambda: served.server.guard.aborted >= 9_000, 30)
            with served.client() as late:
                served.publish(make_trade(1))
                assert receive(client, 1) == receive(late, 1) == [make_trade(1)]
            assert len(served.server.guard) <= 1000
    finally:
        for connection in half_open:
            connection.close()


@pytest.mark.parametrize(
    "start", [b"", b"GET /stream HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ", b"\x16\x03"]
)
def test_a_connection_without_a_whole_request_ends_in_time(serve, start):
    served = serve(request_timeout="300ms")
    with socket.create_connection(served.address.split(":"), timeout=10) as connection:
        connection.sendall(start)
        try:
            answer = connection.recv(1000)
        except ConnectionResetError:
            answer = b""

    assert answer == b"" or answer.startswith(b"HTTP/1.1 400")


def test_a_client_that_never_reads_is_disconnected_and_costs_the_others_nothing(
    serve, make_trade, receive
):
    served = serve(send_timeout="500ms", queue_size=500)
    request = (
        f"GET /stream HTTP/1.1\r\nHost: {served.address}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        "Sec-WebSocket-Version: 13\r\n\r\n"
    )
    idle = [socket.socket() for _ in range(10)]
    try:
        for connection in idle:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", int(served.address.split(":")[1])))
            connection.sendall(request.encode())
        wait_for(lambda: len(served.hub.clients) == 10)
        trades = [make_trade(n) for n in range(40_000)]
        with served.client("?size=500") as client:
            found = []
            for first in range(0, len(trades), 100):
                served.publish(*trades[first : first + 100])
                found += receive(client, 100)
            assert found == trades
            assert all(c.queue.count <= 500 for c in served.hub.clients)
            wait_for(lambda: len(served.hub.clients) == 1)
    finally:
        for connection in idle:
            connection.close()


def test_a_client_that_sends_too_many_messages_is_disconnected(served):
    with served.client() as client, pytest.raises(ConnectionClosed) as caught:
        for _ in range(25):
            client.send('{"op":"subscribe"}')
        while True:
            client.recv(10)

    assert caught.value.rcvd.code == 1008
    assert "20 messages" in caught.value.rcvd.reason


def test_a_message_that_is_too_long_ends_the_connection(served):
    with served.client() as client, pytest.raises(ConnectionClosed) as caught:
        client.send("x" * 70_000)
        client.recv(10)

    assert caught.value.rcvd.code == 1009


def test_broken_messages_and_frames_leave_the_server_as_it_was(served, make_trade, receive):
    rng = random.Random(7)
    upgrade = (
        f"GET /stream HTTP/1.1\r\nHost: {served.address}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        "Sec-WebSocket-Version: 13\r\n\r\n"
    ).encode()
    with served.client() as witness:
        for n in range(150):
            with socket.create_connection(served.address.split(":"), timeout=5) as connection:
                if n % 3 == 0:
                    broken = bytearray(upgrade)
                    for _ in range(rng.randrange(1, 5)):
                        broken[rng.randrange(len(broken))] = rng.randrange(256)
                    connection.sendall(broken)
                else:
                    connection.sendall(upgrade)
                    connection.sendall(rng.randbytes(rng.randrange(1, 400)))
        served.publish(make_trade(1))
        assert receive(witness, 1) == [make_trade(1)]
        wait_for(lambda: len(served.hub.clients) == 1)


# ---------------------------------------------------------------------------------------- the thread


def test_a_port_that_is_taken_is_refused_in_words(served):
    port = int(served.address.split(":")[1])
    with pytest.raises(SinkRefused, match="Choose another port"):
        ServerThread(application(Hub(), Settings()), Settings(port=port))


def test_a_stopped_server_says_so_and_leaves_no_thread(serve):
    served = serve()
    threads = threading.active_count()
    with served.client():
        served.stop()
        with pytest.raises(SinkUnavailable, match="does not run"):
            served.server.call(len, [])
        assert threading.active_count() < threads + 2
    assert all(thread.name != "tapeloom-serve" for thread in threading.enumerate())


def test_a_client_that_never_reads_does_not_keep_the_server_from_ending(serve, make_trade):
    served = serve()
    with socket.socket() as idle:
        idle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        idle.connect(("127.0.0.1", int(served.address.split(":")[1])))
        idle.sendall(f"GET /stream HTTP/1.1\r\nHost: {served.address}\r\n\r\n".encode())
        wait_for(lambda: served.hub.clients)
        for n in range(20):
            served.publish(*[make_trade(n * 500 + i) for i in range(500)])
        served.stop()

    assert all(thread.name != "tapeloom-serve" for thread in threading.enumerate())
    assert len(served.server.guard) == 0


def test_slow_clients_get_gaps_and_the_fast_ones_everything_in_order(serve, make_trade):
    check_clients(serve(queue_size=2000), make_trade, fast=20, slow=5, seconds=3)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_100_clients_for_60_seconds_of_which_20_are_slow(serve, make_trade):
    check_clients(serve(), make_trade, fast=80, slow=20, seconds=60)


def check_clients(served, make_trade, *, fast, slow, seconds):
    """Publish for some seconds to clients in threads, and compare what each of them got.

    A fast client reads one of ten symbols, a slow one all of them, once a second.
    """
    symbols = [f"S{n}/USDT" for n in range(10)]
    port = int(served.address.split(":")[1])
    ready, stop = threading.Barrier(fast + slow + 1), threading.Event()
    received = {}

    def read(number, symbol, pause):
        query = f"?type=trade&symbol={symbol}" if symbol else "?type=trade&size=500"
        connection = socket.socket()
        if pause:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", port))
        with served.client(query, max_queue=1, sock=connection) as client:
            ready.wait()
            texts = []
            while True:
                try:
                    texts.append(client.recv(0.5))
                except TimeoutError:
                    if stop.is_set():
                        break
                if pause:
                    stop.wait(pause)
            received[number] = [decode(line) for text in texts for line in text.splitlines()]

    threads = [
        threading.Thread(target=read, args=(n, symbols[n % 10] if n < fast else "", n >= fast))
        for n in range(fast + slow)
    ]
    for thread in threads:
        thread.start()
    ready.wait()
    published = {symbol: [] for symbol in symbols}
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for symbol in symbols:
            first = len(published[symbol])
            published[symbol] += [make_trade(first + n, symbol) for n in range(10)]
        served.publish(*[trade for trades in published.values() for trade in trades[-10:]])
        time.sleep(0.02)
    stop.set()
    for thread in threads:
        thread.join()

    assert len(received) == fast + slow
    for number in range(fast):
        assert received[number] == published[symbols[number % 10]]
    for number in range(fast, fast + slow):
        by_symbol = {symbol: [] for symbol in symbols}
        for event in received[number]:
            by_symbol[event.symbol].append(event)
        assert any(type(event) is Gap for event in received[number])
        for symbol, events in by_symbol.items():
            assert explained(events, make_trade) == published[symbol]


def explained(events, make_trade):
    """Return the trades that were received, and those that gaps announced at their place."""
    found = []
    for event in events:
        if type(event) is Gap:
            assert (event.cause, event.state) == ("overflow", "unrecoverable")
            lost = [make_trade(len(found) + n, event.symbol) for n in range(event.missing)]
            assert (lost[0].ts, lost[-1].ts) == (event.since, event.until)
            found += lost
        else:
            found.append(event)
    return found
