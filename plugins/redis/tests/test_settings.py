"""What may stand in a ``[[sink]]`` with ``use = "redis"``, and how the plugin is found."""

from __future__ import annotations

from importlib.metadata import entry_points

import pytest
import tapeloom_redis
from tapeloom import Secret, Stack
from tapeloom.errors import ConfigError
from tapeloom.harness import SinkSpec, compose_sink
from tapeloom_redis import RedisSink, Settings

PASSWORD = "fakeredisword777"


def test_the_entry_point_names_this_plugin():
    (found,) = entry_points(group="tapeloom.plugins", name="redis")

    assert found.load() is tapeloom_redis


def test_the_table_of_a_stack_makes_the_sink(monkeypatch):
    monkeypatch.setenv("REDIS_WORD", PASSWORD)
    table = {"url": "redis://db:7000/2", "password": {"env": "REDIS_WORD"}, "timeout": "2s"}
    sink = compose_sink(Stack(sinks=(SinkSpec("redis", table=table),)))

    assert isinstance(sink, RedisSink)
    assert sink.guarantee == "exactly_once"
    assert compose_sink(Stack(sinks=(SinkSpec("redis"),))).guarantee == "exactly_once"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"url": "localhost:6379"}, "expected an address such as 'redis://127.0.0.1:6379/0'"),
        ({"url": "http://db:6379"}, "expected an address"),
        ({"url": f"redis://me:{PASSWORD}@db:6379"}, "a password must not be in the stack itself"),
        ({"url": f"redis://db:6379?password={PASSWORD}"}, "must not be in the stack itself"),
        ({"username": "me"}, "a user needs a password"),
        ({"prefix": ""}, "expected a text such as 'tapeloom'"),
        ({"stream": ""}, "may contain {type}, {venue}, {symbol}, {channel}, got ''"),
        ({"stream": "{price}"}, "may contain {type}"),
        ({"stream": "{type"}, "may contain {type}"),
        ({"stream": "{type!r}"}, "may contain {type}"),
        ({"stream": "{}"}, "may contain {type}"),
        ({"stream": "latest:{type}"}, "keys of its own"),
        ({"max_length": -1}, "max_length"),
        ({"timeout": "0s"}, "timeout"),
        ({"lateness": "1s"}, "lateness"),
    ],
)
def test_an_invalid_setting_is_refused_with_the_expected_values(table, message):
    with pytest.raises(ConfigError) as caught:
        compose_sink(Stack(sinks=(SinkSpec("redis", table=table),)))

    assert message in str(caught.value)
    assert PASSWORD not in str(caught.value)


def test_no_repr_shows_a_secret():
    address = Secret(f"redis://me:{PASSWORD}@db:6379")
    settings = Settings(url=address, username="me", password=Secret(PASSWORD))

    assert PASSWORD not in repr(settings)
    assert PASSWORD not in repr(vars(RedisSink(settings)))
