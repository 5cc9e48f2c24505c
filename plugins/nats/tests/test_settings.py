"""Mistakes in the settings are named, with what to write instead; secrets are not shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tapeloom import Secret, SinkSpec, Stack
from tapeloom.errors import ConfigError
from tapeloom.harness import compose_sink
from tapeloom_nats import Settings

MINUTE = 60_000_000_000


def compose(**table: Any) -> Any:
    return compose_sink(Stack(sinks=(SinkSpec("nats", table=table),)))


def test_units_are_read() -> None:
    settings = Settings(max_bytes="2GB", max_age="7d", timeout="250ms")

    assert (settings.max_bytes, settings.max_age) == (2_000_000_000, 7 * 24 * 60 * MINUTE)
    assert settings.timeout == 250_000_000


def test_a_stack_may_have_one_server_or_several_and_limits_with_units() -> None:
    one = compose(servers="nats://a:4222", max_age="1h", max_bytes="5MB", replicas=3)
    two = compose(servers=["nats://a:4222", "nats://b:4222"])

    assert one.settings.servers == ("nats://a:4222",)
    assert one.settings.max_age == 60 * MINUTE
    assert two.settings.servers == ("nats://a:4222", "nats://b:4222")


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"servers": []}, "servers is empty"),
        ({"servers": "a:4222"}, "servers must look like nats://host:4222"),
        ({"servers": "http://a:4222"}, "but is 'http://a:4222'"),
        ({"servers": "nats://a:99999"}, "servers must look like"),
        ({"servers": "nats://user:hunter2@a"}, "write user and password as settings"),
        ({"user": "u"}, "user and password belong together"),
        ({"certificate": "c.pem"}, "certificate and key belong together"),
        ({"stream": "a.b"}, "stream"),
        ({"stream": ""}, "stream"),
        ({"prefix": "a.*"}, "prefix"),
        ({"prefix": "$JS.API"}, "prefix"),
        ({"prefix": "a."}, "prefix"),
        ({"shards": 0}, "shards"),
        ({"shards": 1025}, "shards"),
        ({"replicas": 6}, "replicas"),
        ({"max_age": "1s"}, "max_age"),
        ({"max_age": "long"}, "'long' is not a duration"),
        ({"max_bytes": "1kB"}, "max_bytes"),
        ({"timeout": "0s"}, "timeout"),
        ({"server": "nats://a"}, "servers"),
        ({"password": "hunter2"}, "secret"),
    ],
)
def test_a_mistake_is_named(table: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        compose(**table)

    assert problem in str(error.value)
    assert "hunter2" not in str(error.value)


def test_two_ways_to_log_in_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="token and credentials are different ways to log in"):
        Settings(token=Secret("t"), credentials="file")


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    settings = Settings(user="u", password=Secret("hunter2"))

    assert "hunter2" not in repr(settings)
