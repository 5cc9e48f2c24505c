"""Settings are checked where they are written, and show no secret."""

from __future__ import annotations

from typing import Any

import pytest
from tapeloom import Secret, Stack
from tapeloom._config import structure
from tapeloom.errors import ConfigError
from tapeloom.harness import SinkSpec, compose_sink
from tapeloom_postgres import PostgresSink, Settings


def composed(**table: Any) -> PostgresSink:
    sink: Any = compose_sink(Stack(sinks=(SinkSpec("postgres", "pg", table=table),)))
    return sink


def test_no_setting_is_required() -> None:
    sink = composed()

    assert isinstance(sink, PostgresSink)
    assert sink.guarantee == "exactly_once"


@pytest.mark.parametrize(
    ("table", "parts"),
    [
        ({"dsn": "postgresql://u:hunter2@host/d"}, ["dsn", "password must not be in the stack"]),
        ({"dsn": "host=h password=hunter2"}, ["dsn", "password must not be in the stack"]),
        ({"dsn": "postgresql://u@host:hunter2/d?a=b"}, ["dsn", "expected an address such as"]),
        ({"dsn": "hunter2"}, ["dsn", "expected an address such as"]),
        ({"password": "hunter2"}, ["password", "a secret must not be in the stack"]),
        ({"schema": ""}, ["schema", "no name"]),
        ({"schema": 'a"b'}, ["schema", "no name"]),
        ({"schema": "pg_mine"}, ["schema", "pg_"]),
        ({"schema": "x" * 64}, ["schema", "no name"]),
        ({"chunk": "-1s"}, ["chunk"]),
        ({"scheme": "x"}, ["scheme", "schema"]),
    ],
)
def test_a_wrong_setting_is_a_mistake_with_its_place_and_without_the_secret(
    table: dict[str, Any], parts: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        composed(**table)

    text = str(caught.value)
    assert [part for part in parts if part not in text] == [], text
    assert "sink[0]" in text
    assert "hunter2" not in text


def test_the_address_may_be_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:hunter2@host/d")
    settings = structure(Settings, {"dsn": {"env": "DATABASE_URL"}}, "postgres")[0]

    assert settings.dsn == Secret("postgresql://u:hunter2@host/d")
    assert "hunter2" in settings.secrets
    assert "hunter2" not in repr(settings)


def test_a_secret_address_that_is_none_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "hunter2")
    with pytest.raises(ConfigError) as caught:
        composed(dsn={"env": "DATABASE_URL"})

    assert "hunter2" not in str(caught.value)
