"""What `[cluster]` may say, and what `tapeloom check` says of it."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve
from tapeloom.errors import ConfigError
from tapeloom.harness import compose_steering
from tapeloom.plugin import Endpoint, FeedOutline
from tapeloom_cluster import Settings
from tapeloom_cluster.setup import node_name, steering
from tapeloom_nats import Settings as NatsSettings
from tapeloom_nats.sink import NatsSink


def outline(
    *symbols: str, venue: str = "v", stages: tuple[str, ...] = (), **endpoint: Any
) -> FeedOutline:
    endpoints = (Endpoint(url="wss://v.invalid", **endpoint),)
    return FeedOutline(venue, venue, symbols or ("A/B", "C/D"), ("trades",), stages, endpoints)


def made(*feeds: FeedOutline, settings: Settings | None = None, **nats: Any) -> Any:
    sinks = {"nats": NatsSink(NatsSettings(**nats))}
    return steering(settings or Settings(node="here"), feeds or (outline(),), sinks)


def test_check_says_what_the_cluster_needs_and_how_much_the_stream_keeps() -> None:
    lines = made(shards=64, max_bytes="10GB", max_age="24h", replicas=3).describe()

    assert lines[0] == (
        "node here, bucket tapeloom_cluster: 2 symbols in 64 shard(s), each on 1 node(s), lease of 10 s"
    )
    assert (
        "at 1,000 trades a second max_bytes keeps 35.6 hours: readers may be away so long" in lines
    )
    assert "at 1,000 trades a second max_age keeps 6.7 GB" in lines
    assert not [line for line in lines if "no limit" in line or "1 replica:" in line]


def test_check_warns_of_a_stream_without_limits_and_without_replicas_and_of_few_shards() -> None:
    text = "\n".join(made().describe())

    assert "the stream has no limit" in text
    assert "the stream has 1 replica: if its server is lost" in text
    assert "write shards = 64" in text


def test_a_feed_with_stages_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"'v' has some\. Name the stages in the stack that reads"
    ):
        made(outline(stages=("bars",)))


@pytest.mark.parametrize("count", [0, 2])
def test_one_sink_publishes_what_the_nodes_stream(count: int) -> None:
    sinks = {f"s{number}": NatsSink(NatsSettings()) for number in range(count)}

    with pytest.raises(ConfigError, match=f"there are {count}"):
        steering(Settings(), [outline()], sinks)
    if count:
        assert steering(Settings(sink="s1"), [outline()], sinks).node.sink == "s1"


def test_a_venue_that_allows_one_connection_is_on_one_node_and_released_before_it_moves() -> None:
    found = made(outline(*(f"S{n}/B" for n in range(50)), max_connections=1), shards=16)
    shards = {found.node.table.of("v", f"S{n}/B") for n in range(50)}

    assert len(shards) == 1
    assert found.rules.exclusive == {int(next(iter(shards)))}


def test_a_venue_that_allows_many_connections_is_shared() -> None:
    found = made(outline(*(f"S{n}/B" for n in range(50)), max_connections=1000), shards=16)

    assert len({found.node.table.of("v", f"S{n}/B") for n in range(50)}) > 8
    assert found.rules.exclusive == frozenset()


def test_replicas_that_a_venue_does_not_allow_are_refused() -> None:
    with pytest.raises(
        ConfigError, match="v allows 1 connections at a time, and 2 replicas need 2"
    ):
        made(outline(max_connections=1), settings=Settings(replicas=2))


def test_channels_of_which_two_copies_cannot_be_merged_are_refused_with_replicas() -> None:
    feed = evolve(outline(), unidentified=("book", "ticker"))

    assert made(feed).node.replicas == 1
    with pytest.raises(
        ConfigError,
        match=r"copies of book, ticker of 'v' cannot be merged: .* of their own with replicas = 1",
    ):
        made(feed, settings=Settings(replicas=2))


@pytest.mark.parametrize(
    ("venue", "channels", "refused"),
    [
        ("hyperliquid", ["trades", "quotes", "book:20", "klines:1m", "ticker"], ["ticker"]),
        ("binance", ["trades", "quotes", "book", "klines:1m", "ticker"], []),
        ("bybit", ["trades", "quotes", "book:50", "klines:1m", "ticker"], []),
    ],
)
def test_check_refuses_what_a_venue_says_it_cannot_identify(
    venue: str, channels: list[str], refused: list[str]
) -> None:
    pytest.importorskip(f"tapeloom_{venue}")
    symbol = "BTC/USDC:USDC" if venue == "hyperliquid" else "BTC/USDT"
    stack = {
        "feed": [{"venue": venue, "symbols": [symbol], "channels": channels}],
        "sink": [{"use": "nats"}],
        "cluster": {"use": "cluster", "replicas": 2},
    }
    if not refused:
        assert compose_steering(stack) is not None
        return
    with pytest.raises(ConfigError) as caught:
        compose_steering(stack)

    (mistake,) = caught.value.mistakes
    assert mistake.place == "cluster.replicas"
    assert f"copies of {', '.join(refused)} of {venue!r} cannot be merged" in mistake.problem


def test_a_node_has_its_name_from_the_stack_the_environment_or_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "box.example.org")
    assert node_name(Settings()) == "box-example-org"
    monkeypatch.setenv("TAPELOOM_NODE", "north")
    assert node_name(Settings()) == "north"
    assert node_name(Settings(node="own")) == "own"


@pytest.mark.parametrize(
    "wrong", [{"lease": "1s"}, {"replicas": 0}, {"bucket": "a.b"}, {"bucket": ""}, {"node": "a b"}]
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Settings(**wrong)
