"""The proxy loses the answer to a request that a real server has executed, and connections."""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import nats
import psycopg
import pytest
import redis
from nats.js.api import StreamConfig
from redis.backoff import NoBackoff
from redis.retry import Retry
from tapeloom_testing.services import (
    NatsDialogue,
    NatsServer,
    PostgresDialogue,
    PostgresServer,
    RedisDialogue,
    RedisServer,
    ServiceFailed,
    TcpProxy,
    is_commit,
    nats_subject,
    redis_command,
)
from tapeloom_testing.services import proxy as proxies


@contextmanager
def proxied_redis() -> Iterator[tuple[RedisServer, TcpProxy]]:
    with RedisServer() as server, TcpProxy(server.host, server.port, RedisDialogue) as proxy:
        yield server, proxy


@contextmanager
def redis_client(port: int, timeout: float = 5) -> Iterator[redis.Redis]:
    with redis.Redis(
        host="127.0.0.1", port=port, socket_timeout=timeout, retry=Retry(NoBackoff(), 0)
    ) as client:
        yield client


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@contextmanager
def proxied_postgres(server: PostgresServer) -> Iterator[TcpProxy]:
    """Stand before a server whose table of numbers is empty."""
    with psycopg.connect(server.dsn) as connection:
        connection.execute("DROP TABLE IF EXISTS numbers")
        connection.execute("CREATE TABLE numbers (number int)")
    with TcpProxy(server.host, server.port, PostgresDialogue) as proxy:
        yield proxy


def numbers(server: PostgresServer) -> list[int]:
    """Read the table over a connection of its own, without the proxy."""
    with psycopg.connect(server.dsn) as connection:
        found = connection.execute("SELECT number FROM numbers ORDER BY number")
        return [number for (number,) in found]


def commit_simple(connection: psycopg.Connection) -> None:
    connection.execute("INSERT INTO numbers VALUES (1)")
    connection.commit()


def commit_in_a_pipeline(connection: psycopg.Connection) -> None:
    with connection.pipeline():
        connection.execute("INSERT INTO numbers VALUES (%s)", [1])
        connection.commit()


def commit_in_a_list_of_statements(connection: psycopg.Connection) -> None:
    connection.autocommit = True
    connection.execute("BEGIN; INSERT INTO numbers VALUES (1); COMMIT")


def commit_prepared(connection: psycopg.Connection) -> None:
    connection.execute("INSERT INTO numbers VALUES (%s)", [1])
    connection.execute("COMMIT", prepare=True)


def commit_after_copy(connection: psycopg.Connection) -> None:
    with connection.cursor().copy("COPY numbers FROM STDIN") as copy:
        copy.write_row([1])
    connection.commit()


def commit_after_copy_in_an_extended_query(connection: psycopg.Connection) -> None:
    """The server ignores the first of two Syncs; psycopg itself copies in simple queries."""
    connection.execute("SELECT 1")  # begins the transaction
    raw = connection.pgconn
    raw.exec_params(b"COPY numbers FROM STDIN", [])
    raw.put_copy_data(b"1\n")
    raw.put_copy_end()
    raw.flush()
    while raw.is_busy():  # get_result would hold the interpreter's lock, and stop the proxy
        select.select([raw.socket], [], [], 10)
        raw.consume_input()
    assert raw.get_result().error_message == b""  # type: ignore[union-attr]
    assert raw.get_result() is None
    connection.commit()


@pytest.mark.parametrize(
    "commit",
    [
        commit_simple,
        commit_in_a_pipeline,
        commit_in_a_list_of_statements,
        commit_prepared,
        commit_after_copy,
        commit_after_copy_in_an_extended_query,
    ],
)
def test_the_rows_of_a_commit_whose_answer_is_lost_are_there_and_the_client_has_an_error(
    commit: Callable[[psycopg.Connection], None], postgres: PostgresServer
) -> None:
    with proxied_postgres(postgres) as proxy:
        proxy.drop_answers_after(is_commit)
        with (
            closing(psycopg.connect(postgres.dsn_at(proxy.port))) as connection,
            pytest.raises(psycopg.OperationalError),
        ):
            commit(connection)

        assert numbers(postgres) == [1]
        assert (proxy.matched, proxy.eaten) == (1, 1)


def test_only_the_third_commit_over_all_connections_is_lost(postgres: PostgresServer) -> None:
    lost = []
    with proxied_postgres(postgres) as proxy:
        proxy.drop_answers_after(is_commit, nth=3)
        for number in range(5):
            with closing(psycopg.connect(postgres.dsn_at(proxy.port))) as connection:
                connection.execute("INSERT INTO numbers VALUES (%s)", [number])
                try:
                    connection.commit()
                except psycopg.OperationalError:
                    lost.append(number)

        assert lost == [2]
        assert numbers(postgres) == [0, 1, 2, 3, 4]
        assert (proxy.connections, proxy.matched, proxy.eaten) == (5, 5, 1)


def test_a_repeat_after_a_lost_commit_doubles_the_rows_of_a_writer_without_a_cursor(
    postgres: PostgresServer,
) -> None:
    """This is what the proxy is for: a sink that only repeats a failed write must be found out."""
    with proxied_postgres(postgres) as proxy:
        proxy.drop_answers_after(is_commit, nth=2)
        for number in range(3):
            for _ in range(2):
                try:
                    with psycopg.connect(postgres.dsn_at(proxy.port)) as connection:
                        connection.execute("INSERT INTO numbers VALUES (%s)", [number])
                except psycopg.OperationalError:
                    continue
                break

        assert numbers(postgres) == [0, 1, 1, 2]


def test_a_transaction_of_redis_whose_answer_is_lost_is_executed() -> None:
    with proxied_redis() as (_, proxy), redis_client(proxy.port) as client:
        proxy.drop_answers_after(redis_command("EXEC"))
        transaction = client.pipeline(transaction=True)
        transaction.rpush("list", "a").rpush("list", "EXEC")
        with pytest.raises(redis.ConnectionError):
            transaction.execute()

        assert proxy.eaten == 1
        assert client.lrange("list", 0, -1) == [b"a", b"EXEC"]  # over a second connection
        assert proxy.connections == 2


def test_the_third_of_five_commands_in_one_read_is_executed_and_its_answer_lost() -> None:
    with proxied_redis() as (server, proxy), redis_client(proxy.port) as client:
        proxy.drop_answers_after(redis_command("XADD"), nth=3)
        pipeline = client.pipeline(transaction=False)
        for number in range(5):
            pipeline.xadd("stream", {"value": number}, id=f"1-{number + 1}")
        with pytest.raises(redis.ConnectionError):
            pipeline.execute()
        with redis_client(server.port) as direct:
            stored = [key for key, _ in direct.xrange("stream")]

        assert stored[:3] == [b"1-1", b"1-2", b"1-3"]
        assert proxy.eaten == 1


def test_every_answer_is_lost_until_the_proxy_is_healed() -> None:
    with proxied_redis() as (_, proxy), redis_client(proxy.port) as client:
        proxy.drop_answers_after(redis_command("INCRBY"), nth=2, every=True)
        assert client.incr("counter") == 1
        for _ in range(3):
            with pytest.raises(redis.ConnectionError):
                client.incr("counter")
        assert client.get("counter") == b"4"
        proxy.heal()

        assert client.incr("counter") == 5
        assert proxy.eaten == 3


def test_a_part_of_a_request_selects_it_where_the_protocol_is_not_known() -> None:
    with (
        RedisServer() as server,
        TcpProxy(server.host, server.port) as proxy,
        redis_client(proxy.port) as client,
    ):
        proxy.drop_answers_after(b"doomed")
        assert client.set("spared", 1)
        with pytest.raises(redis.ConnectionError):
            client.set("doomed", 1)

        assert sorted(client.keys()) == [b"doomed", b"spared"]
        assert (proxy.matched, proxy.eaten) == (1, 1)


@pytest.mark.parametrize("headers", [None, {"Nats-Msg-Id": "1"}], ids=["PUB", "HPUB"])
def test_a_message_whose_acknowledgement_is_lost_is_in_the_stream(
    headers: dict[str, str] | None,
) -> None:
    async def publish(server: NatsServer, proxy: TcpProxy) -> list[bytes]:
        direct = await nats.connect(server.url)
        await direct.jetstream().add_stream(StreamConfig(name="s", subjects=["orders.*"]))
        lossy = await nats.connect(server.url_at(proxy.port), allow_reconnect=False)
        stream = lossy.jetstream()
        await stream.publish("orders.x", b"first", timeout=5)
        proxy.drop_answers_after(nats_subject("orders."))
        with pytest.raises((nats.errors.Error, TimeoutError)):
            await stream.publish("orders.y", b"second", timeout=1, headers=headers)
        reader = direct.jetstream()
        found = [(await reader.get_msg("s", number)).data or b"" for number in (1, 2)]
        await lossy.close()
        await direct.close()
        return found

    with NatsServer() as server, TcpProxy(server.host, server.port, NatsDialogue) as proxy:
        assert asyncio.run(publish(server, proxy)) == [b"first", b"second"]
        assert (proxy.matched, proxy.eaten) == (1, 1)


def test_an_answer_that_never_comes_is_not_counted_as_eaten() -> None:
    with (
        proxied_redis() as (server, proxy),
        socket.create_connection((proxy.host, proxy.port), 0.2) as client,
    ):
        client.sendall(b"PING\r\n")
        assert client.recv(7) == b"+PONG\r\n"
        proxy.drop_answers_after(redis_command("INCR"))
        server.pause()
        client.sendall(b"*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n")
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(5)
        server.kill()

        assert client.recv(1) == b""
        assert (proxy.matched, proxy.eaten) == (1, 0)


def test_large_values_pass_unchanged_both_ways() -> None:
    value = bytes(range(256)) * 40_000
    with proxied_redis() as (_, proxy), redis_client(proxy.port) as client:
        client.set("large", value)

        assert client.get("large") == value


def test_refused_connections_are_refused_and_open_ones_go_on_until_healed() -> None:
    with proxied_redis() as (_, proxy), redis_client(proxy.port) as client:
        assert client.ping()
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((proxy.host, proxy.port))
        assert client.ping()
        proxy.heal()
        with redis_client(proxy.port) as second:
            assert second.ping()
        assert proxy.connections == 2


def test_a_cut_closes_all_connections_and_new_ones_are_served() -> None:
    with (
        proxied_redis() as (_, proxy),
        socket.create_connection((proxy.host, proxy.port), 5) as first,
        socket.create_connection((proxy.host, proxy.port), 5) as second,
    ):
        for connection in (first, second):
            connection.sendall(b"PING\r\n")
            assert connection.recv(7) == b"+PONG\r\n"
        assert proxy.open_connections == 2
        proxy.cut()

        assert proxy.open_connections == 0
        assert (first.recv(1), second.recv(1)) == (b"", b"")
        with redis_client(proxy.port) as client:
            assert client.ping()


def test_a_stall_delays_what_is_sent_and_new_connections_until_healed() -> None:
    with (
        proxied_redis() as (_, proxy),
        socket.create_connection((proxy.host, proxy.port), 5) as old,
    ):
        old.sendall(b"PING\r\n")
        assert old.recv(7) == b"+PONG\r\n"
        proxy.stall()
        with socket.create_connection((proxy.host, proxy.port), 5) as new:
            for connection in (old, new):
                connection.sendall(b"PING\r\n")
                connection.settimeout(0.2)
                with pytest.raises(TimeoutError):
                    connection.recv(7)
                connection.settimeout(5)
            proxy.heal()

            assert (old.recv(7), new.recv(7)) == (b"+PONG\r\n", b"+PONG\r\n")


def test_a_client_before_a_server_that_reads_nothing_is_held_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a limit the proxy would take all 200 MB; the system's buffers take some of them."""
    monkeypatch.setattr(proxies, "BUFFER_BYTES", 65_536)
    block, sent = b"x" * 1_000_000, 0
    with (
        proxied_redis() as (server, proxy),
        socket.create_connection((proxy.host, proxy.port), 5) as client,
    ):
        client.sendall(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$200000000\r\n")
        server.pause()
        client.settimeout(0.5)
        with pytest.raises(TimeoutError):
            while sent < 200_000_000:
                sent += client.send(block)

    assert sent < 100_000_000


def test_a_dead_server_ends_the_clients_connection() -> None:
    with proxied_redis() as (server, proxy), redis_client(proxy.port) as client:
        assert client.ping()
        server.kill()
        with pytest.raises(redis.ConnectionError):
            client.ping()
        server.start()

        assert client.ping()


def test_bytes_of_another_protocol_are_an_error_at_the_end() -> None:
    with (
        RedisServer() as server,
        pytest.raises(ServiceFailed, match="expected bytes of the protocol"),
        TcpProxy(server.host, server.port, RedisDialogue) as proxy,
        socket.create_connection((proxy.host, proxy.port), 5) as client,
    ):
        client.sendall(b"*x\r\n")
        assert client.recv(1) == b""

    assert (proxy._waker.fileno(), proxy._woken.fileno()) == (-1, -1)
