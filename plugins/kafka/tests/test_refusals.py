"""What cannot work is refused with one sentence that names the remedy, and shows no secret."""

from __future__ import annotations

import re

import pytest
from confluent_kafka import KafkaError
from tapeloom import Secret
from tapeloom.errors import BatchRefused, SinkError, SinkRefused, SinkUnavailable
from tapeloom.plugin import SinkRun
from tapeloom_kafka import KafkaSink, Settings
from tapeloom_kafka._failures import Brokers
from tapeloom_testing.services import free_port

EPOCH = 1_700_000_000_000_000_000
PASSWORD = "fakekafkaword888"


def refusals(settings, name="store"):
    """The errors of `check` and of `open`."""
    sink = KafkaSink(settings)
    for call in (sink.check, lambda: sink.open(SinkRun(name, EPOCH))):
        with pytest.raises(SinkError) as caught:
            call()
        sink.close()
        assert PASSWORD not in f"{caught.value!r}{caught.value}"
        assert re.fullmatch(r"[^\n]+\.", str(caught.value))
        yield caught.value


def test_brokers_that_do_not_run_are_unavailable():
    settings = Settings(servers=f"127.0.0.1:{free_port()}", timeout="300ms")
    for error in refusals(settings):
        assert type(error) is SinkUnavailable
        assert re.search(
            r"failed to answer: .*Connection refused.*Check that the brokers run", str(error)
        )


def test_a_host_that_does_not_exist_is_unavailable():
    settings = Settings(
        servers="no-such-host.invalid:9092",
        username="me",
        password=Secret(PASSWORD),
        timeout="300ms",
    )
    for error in refusals(settings):
        assert type(error) is SinkUnavailable
        assert "no-such-host.invalid" in str(error)


def test_an_unknown_option_of_the_client_is_refused(cluster):
    settings = Settings(servers=cluster.bootstrap_servers, options={"lingerr.ms": 5})
    for error in refusals(settings):
        assert type(error) is SinkRefused
        assert re.search(r"lingerr\.ms.*Correct options and ca\.", str(error))


def test_a_login_that_the_brokers_do_not_have_is_an_error_and_shows_no_password(cluster):
    settings = Settings(
        servers=cluster.bootstrap_servers, username="me", password=Secret(PASSWORD), timeout="1s"
    )
    assert len([*refusals(settings)]) == 2


def test_a_file_of_certificates_that_is_missing_is_refused(cluster):
    settings = Settings(servers=cluster.bootstrap_servers, tls=True, ca="missing.pem", timeout="1s")
    for error in refusals(settings):
        assert type(error) is SinkRefused
        assert re.search(r"ssl\.ca\.location.*Correct options and ca\.", str(error))


def test_a_sink_whose_name_is_no_part_of_a_topic_needs_another_or_a_topic(cluster):
    sink = KafkaSink(Settings(servers=cluster.bootstrap_servers))
    with pytest.raises(
        SinkRefused, match=r"got 'tapeloom\.cursor\.my sink'\. Give the sink another name"
    ):
        sink.open(SinkRun("my sink", EPOCH))
    sink.close()


def test_check_says_what_readers_must_do_and_that_the_policy_is_unknown(table):
    sink = KafkaSink(Settings(**table))
    lines = sink.check()

    assert re.fullmatch(r"Kafka cluster \S* at [\d.:,]+: 3 brokers", lines[0])
    assert lines[1] == "exactly once: readers must set isolation.level = read_committed"
    assert lines[2].endswith("of the cursor is there, cleanup.policy = unknown")


@pytest.mark.parametrize(
    ("code", "kind", "remedy"),
    [
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, SinkRefused, "Grant the user Write and Describe"),
        (KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, SinkRefused, "transactional id"),
        (KafkaError.CLUSTER_AUTHORIZATION_FAILED, SinkRefused, "create the topics yourself"),
        (KafkaError.SASL_AUTHENTICATION_FAILED, SinkRefused, "Correct username and password"),
        (KafkaError._AUTHENTICATION, SinkRefused, "Correct username, password and mechanism"),
        (KafkaError._SSL, SinkRefused, "Set ca to the file"),
        (KafkaError._UNSUPPORTED_FEATURE, SinkRefused, "too old: use Kafka 2.4"),
        (KafkaError.INVALID_REPLICATION_FACTOR, SinkRefused, "set replicas"),
        (KafkaError.MSG_SIZE_TOO_LARGE, BatchRefused, "max.message.bytes"),
        (KafkaError._FENCED, SinkUnavailable, "Another process writes as this sink"),
        (KafkaError.NOT_ENOUGH_REPLICAS, SinkUnavailable, "Check that the brokers run"),
    ],
)
def test_each_error_of_the_brokers_has_its_kind_and_remedy(code, kind, remedy):
    error = Brokers("b:9092").error(KafkaError(code), "write a batch")

    assert type(error) is kind
    assert remedy in str(error)
    assert str(error).startswith("the Kafka brokers b:9092 failed to write a batch: ")
