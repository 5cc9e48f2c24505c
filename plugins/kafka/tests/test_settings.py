"""What may stand in a ``[[sink]]`` with ``use = "kafka"``, and how the plugin is found."""

from __future__ import annotations

from importlib.metadata import entry_points

import pytest
import tapeloom_kafka
from tapeloom import Secret, Stack
from tapeloom.errors import ConfigError
from tapeloom.harness import SinkSpec, compose_sink
from tapeloom_kafka import KafkaSink, Settings

PASSWORD = "fakekafkaword888"


def test_the_entry_point_names_this_plugin():
    (found,) = entry_points(group="tapeloom.plugins", name="kafka")

    assert found.load() is tapeloom_kafka


def test_the_table_of_a_stack_makes_the_sink(monkeypatch):
    monkeypatch.setenv("KAFKA_WORD", PASSWORD)
    table = {
        "servers": "a:1,b:2",
        "username": "me",
        "password": {"env": "KAFKA_WORD"},
        "options": {"linger.ms": 20, "ssl.key.password": {"env": "KAFKA_WORD"}},
    }
    sink = compose_sink(Stack(sinks=(SinkSpec("kafka", table=table),)))

    assert isinstance(sink, KafkaSink)
    assert PASSWORD not in repr(sink._settings)
    client = sink._settings.client()
    assert client["linger.ms"] == 20
    assert client["sasl.password"] == client["ssl.key.password"] == PASSWORD


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"servers": "localhost"}, "expected addresses such as 'broker-1:9092,broker-2:9092'"),
        ({"servers": "kafka://a:9092"}, "expected addresses"),
        ({"topic": "{symbol}"}, "may contain {type}, {venue}"),
        ({"topic": "a/b"}, "letters, digits"),
        ({"topic": ""}, "letters, digits"),
        ({"topic": "{"}, "may contain {type}"),
        ({"topic": "{}"}, "may contain {type}"),
        ({"cursor_topic": "{type}"}, "may contain {sink}"),
        ({"format": "avro"}, "format"),
        ({"compression": "brotli"}, "compression"),
        ({"partitions": -1}, "partitions"),
        ({"username": "me"}, "belong together"),
        ({"timeout": "0s"}, "timeout"),
        ({"options": {"transactional.id": "x"}}, "use the setting transactions"),
        ({"options": {"sasl.password": PASSWORD}}, "use the setting password"),
        ({"options": {"ssl.key.password": PASSWORD}}, "must not be in the stack itself"),
    ],
)
def test_an_invalid_setting_is_refused_with_the_expected_values(table, message):
    with pytest.raises(ConfigError) as caught:
        compose_sink(Stack(sinks=(SinkSpec("kafka", table=table),)))

    assert message in str(caught.value)
    assert PASSWORD not in str(caught.value)


def test_no_repr_shows_a_secret():
    settings = Settings(username="me", password=Secret(PASSWORD))

    assert PASSWORD not in repr(settings)
    assert PASSWORD not in repr(vars(KafkaSink(settings)))
