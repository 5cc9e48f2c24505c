"""What cannot work is said in one clear sentence with the remedy, by `open` and by `check`, without secrets."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.js.api import StreamConfig
from tapeloom import Secret
from tapeloom.errors import SinkRefused, SinkUnavailable
from tapeloom.plugin import SinkBatch, SinkRun
from tapeloom_nats import Settings
from tapeloom_nats.sink import NatsSink
from tapeloom_testing.blocking import BlockingSink
from tapeloom_testing.contract.sinks.events import sink_events
from tapeloom_testing.services import NatsServer, free_port

PASSWORD = "hunter2"
ACCOUNTS = {
    "accounts": {
        "A": {
            "jetstream": {"max_file": 2_000_000},
            "users": [
                {"user": "all", "password": PASSWORD},
                {
                    "user": "reader",
                    "password": PASSWORD,
                    "permissions": {"publish": ["$JS.API.>"], "subscribe": [">"]},
                },
                {
                    "user": "writer",
                    "password": PASSWORD,
                    "permissions": {"publish": ["tapeloom.>", "$KV.>"], "subscribe": ["_INBOX.>"]},
                },
            ],
        },
        "B": {"users": [{"user": "plain", "password": PASSWORD}]},
    }
}


@pytest.fixture(scope="module")
def secured() -> Iterator[NatsServer]:
    with NatsServer(settings=ACCOUNTS) as server:
        yield server


def error_of(sink: BlockingSink, kind: type[Exception]) -> str:
    """Return the message with which the sink cannot be opened; `check` has the same kind of error."""
    with pytest.raises(kind) as opened:
        sink.open(SinkRun("sink", 1))
    sink.close()
    with pytest.raises(kind) as checked:
        sink.check()
    for text in (str(opened.value), str(checked.value)):
        assert PASSWORD not in text
        assert text.endswith(".")
        assert text.isprintable()
    return str(opened.value)


def login(server: NatsServer, user: str, password: str = PASSWORD, **settings: Any) -> BlockingSink:
    return sink_of(
        servers=server.url, user=user, password=Secret(password), timeout="2s", **settings
    )


def sink_of(**settings: Any) -> BlockingSink:
    return BlockingSink(NatsSink(Settings(**settings)))


def test_an_address_where_nothing_listens_is_named() -> None:
    port = free_port()
    text = error_of(sink_of(servers=f"nats://127.0.0.1:{port}"), SinkUnavailable)

    assert f"cannot be reached at nats://127.0.0.1:{port}" in text
    assert "check servers" in text


def test_a_name_that_no_address_has_is_named() -> None:
    text = error_of(sink_of(servers="nats://no.such.host.invalid:4222"), SinkUnavailable)

    assert "no.such.host.invalid" in text


@contextmanager
def speaking(first: bytes) -> Iterator[str]:
    """Accept connections, say something to each and close it; yield the address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(first)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"nats://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_a_server_of_another_protocol_is_no_nats_server() -> None:
    with speaking(b"HTTP/1.1 400 Bad Request\r\n\r\n") as url:
        text = error_of(sink_of(servers=url), SinkUnavailable)

    assert "expecting INFO" in text


def test_a_server_that_says_nothing_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"nats://127.0.0.1:{listener.getsockname()[1]}"
        text = error_of(sink_of(servers=url, timeout="100ms"), SinkUnavailable)

    assert "no answer within 0.1 s" in text


@pytest.mark.parametrize(("user", "password"), [("all", "wrong"), ("nobody", PASSWORD)])
def test_a_login_that_is_refused_is_said_without_it(
    secured: NatsServer, user: str, password: str
) -> None:
    text = error_of(login(secured, user, password), SinkRefused)

    assert "refused the login" in text
    assert password not in text


def test_no_login_where_one_is_needed_is_refused(secured: NatsServer) -> None:
    assert "refused the login" in error_of(sink_of(servers=secured.url), SinkRefused)


def test_an_account_without_jetstream_is_told_to_enable_it(secured: NatsServer) -> None:
    text = error_of(login(secured, "plain"), SinkRefused)

    assert "JetStream is off" in text
    assert "-js" in text


def test_a_user_who_may_not_publish_is_refused_by_name_of_the_right(secured: NatsServer) -> None:
    sink = login(secured, "all")
    sink.open(SinkRun("sink", 1))
    sink.close()

    text = error_of(login(secured, "reader"), SinkRefused)

    assert 'permissions violation for publish to "tapeloom.' in text
    assert "Grant it" in text


def test_a_user_who_may_not_use_the_api_is_refused_by_name_of_the_right(
    secured: NatsServer,
) -> None:
    text = error_of(login(secured, "writer"), SinkRefused)

    assert 'publish to "$js.api.stream.info.tapeloom"' in text


def test_more_than_the_account_may_store_is_refused(secured: NatsServer) -> None:
    sink = login(secured, "all", stream="large", prefix="large", max_bytes="1GB")
    with pytest.raises(SinkRefused, match="limits of the account") as refused:
        sink.open(SinkRun("sink", 1))
    sink.close()

    assert "cannot be created" in str(refused.value)


def test_more_replicas_than_servers_are_refused(bench: Any) -> None:
    sink = bench.sink(replicas=3)
    with pytest.raises(SinkRefused, match=r"replicas > 1 not supported.*Change replicas"):
        sink.open(SinkRun("sink", 1))
    sink.close()


def test_a_full_store_is_unavailable_and_what_was_stored_stays(secured: NatsServer) -> None:
    """The account's storage is full; core tries again until there is room."""
    sink = login(secured, "all", stream="full", prefix="full")
    sink.open(SinkRun("sink", 1))
    events, number = sink_events(2000), 1
    with pytest.raises(SinkUnavailable, match="does not take a message") as unavailable:
        while number < 100_000:
            sink.write(SinkBatch(1, number, events))
            number += len(events)
    sink.close()
    assert "check the server's log and disk" in str(unavailable.value)
    assert number > 2000


async def create(url: str, **config: Any) -> None:
    client = await nats.connect(url)
    await client.jetstream().add_stream(StreamConfig(**config))
    await client.close()


@pytest.mark.parametrize(
    ("config", "settings", "problem"),
    [
        ({"max_age": 3600}, {"max_age": "2h"}, "max_age is 3600000000000, expected 7200000000000"),
        ({"max_bytes": 1000}, {"max_bytes": "5MB"}, "max_bytes is 1000, expected 5000000"),
        ({}, {"replicas": 3}, "num_replicas is 1, expected 3"),
        ({"storage": "memory"}, {}, "storage is 'memory', expected 'file'"),
        ({"retention": "workqueue"}, {}, "retention is 'workqueue', expected 'limits'"),
        ({"max_msgs_per_subject": 5}, {}, "max_msgs_per_subject is 5, expected no limit"),
        ({"max_msg_size": 100}, {}, "max_msg_size is 100, expected at least 65536"),
        ({"no_ack": True}, {}, "it has no_ack"),
    ],
)
def test_an_existing_stream_with_other_settings_is_refused_with_the_difference(
    bench: Any, config: dict[str, Any], settings: dict[str, Any], problem: str
) -> None:
    asyncio.run(create(bench.url, name=bench.name, subjects=[f"{bench.name}.>"], **config))

    assert problem in error_of(bench.sink(**settings), SinkRefused)


def test_an_existing_stream_with_other_subjects_is_refused(bench: Any) -> None:
    asyncio.run(create(bench.url, name=bench.name, subjects=[f"{bench.name}.sink.0"]))

    assert f"expected {bench.name}.>" in error_of(bench.sink(), SinkRefused)


def test_settings_that_are_left_out_are_as_the_stream_has_them(bench: Any) -> None:
    asyncio.run(
        create(bench.url, name=bench.name, subjects=["a.b", f"{bench.name}.>"], max_age=3600)
    )
    sink = bench.sink()

    assert sink.open(SinkRun("sink", 1)).last == 0
    sink.close()
    assert any("3,600 s old" in line for line in sink.check())


def test_subjects_that_another_stream_has_are_refused(bench: Any) -> None:
    asyncio.run(create(bench.url, name=f"{bench.name}_other", subjects=[f"{bench.name}.>"]))
    sink = bench.sink()
    with pytest.raises(
        SinkRefused, match=r"another stream has the subjects.*choose another prefix\."
    ):
        sink.open(SinkRun("sink", 1))
    sink.close()


def test_messages_of_something_else_on_the_subjects_are_refused(bench: Any) -> None:
    async def publish() -> None:
        client = await nats.connect(bench.url)
        await client.jetstream().publish(f"{bench.name}.sink.0", b"hello")
        await client.close()

    sink = bench.sink()
    sink.open(SinkRun("sink", 1))
    sink.close()
    asyncio.run(publish())
    with pytest.raises(SinkRefused, match="something else publishes there"):
        sink.open(SinkRun("sink", 1))
    sink.close()


def test_messages_of_a_newer_version_are_refused(bench: Any) -> None:
    async def publish() -> None:
        client = await nats.connect(bench.url)
        header = '{"version":2,"sink":"sink","epoch":1,"first":1,"last":1,"count":1,"fence":0,"writer":"x"}'
        await client.jetstream().publish(f"{bench.name}.sink.0", b"", headers={"Tapeloom": header})
        await client.close()

    sink = bench.sink()
    sink.open(SinkRun("sink", 1))
    sink.close()
    asyncio.run(publish())
    other = bench.sink()
    with pytest.raises(SinkRefused, match=r"has version 2.*Update tapeloom-nats"):
        other.open(SinkRun("sink", 1))
    other.close()


def test_a_stream_that_is_deleted_while_events_are_written_is_created_again(bench: Any) -> None:
    async def delete() -> None:
        client = await nats.connect(bench.url)
        await client.jetstream().delete_stream(bench.name)
        await client.close()

    events = sink_events(20)
    sink = bench.sink()
    sink.open(SinkRun("sink", 1))
    sink.write(SinkBatch(1, 1, events[:10]))
    asyncio.run(delete())
    with pytest.raises(SinkUnavailable, match=r"nobody listens.*that the stream exists"):
        sink.write(SinkBatch(1, 11, events[10:]))
    sink.close()
    sink.open(SinkRun("sink", 1))
    sink.write(SinkBatch(1, 11, events[10:]))
    sink.close()

    assert [item.number for item in bench.read()] == list(range(11, 21))


def test_check_of_a_new_stream_says_that_it_will_be_created_and_creates_nothing(bench: Any) -> None:
    lines = bench.sink().check()

    assert "nats-server 2." in lines[0]
    assert "will be created" in lines[1]
    assert bench.sink().check() == lines


def test_check_of_a_stream_describes_it(bench: Any) -> None:
    bench.write(bench.sink(), sink_events(10))

    lines = bench.sink().check()

    assert f"the stream {bench.name!r} has 2 messages" in lines[1]
    assert "1 replica: what is stored is lost if the disk of its server is" in lines


def test_a_paused_server_is_given_up_in_time(tmp_path: Path) -> None:
    with NatsServer() as server:
        sink = sink_of(servers=server.url, timeout="200ms")
        sink.open(SinkRun("sink", 1))
        server.pause()
        with pytest.raises(SinkUnavailable, match=r"did not answer within 0\.2 s"):
            sink.write(SinkBatch(1, 1, sink_events(10)))
        sink.close()
        server.resume()

        assert sink.open(SinkRun("sink", 1)).last in (0, 10)
        sink.close()
