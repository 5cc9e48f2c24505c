"""Subjects, shards and headers."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tapeloom.errors import SinkRefused
from tapeloom_nats.messages import (
    Header,
    MessageReader,
    body_of,
    events_of,
    header_text,
    parse_header,
    position_shard,
    positions_of,
    shard_names,
    shard_of,
    subject_of,
    token,
)
from tapeloom_testing.contract.sinks.events import sink_events


@given(st.text(max_size=9), st.text(max_size=9))
def test_different_names_have_different_tokens(name: str, other: str) -> None:
    assert (token(name) == token(other)) == (name == other)


@given(st.text(min_size=1, max_size=9))
def test_a_token_has_no_character_that_means_something_in_a_subject(name: str) -> None:
    assert set(token(name)).isdisjoint(" .*>\t\r\n$")
    assert token(name).isascii()


def test_a_plain_name_is_its_own_token() -> None:
    assert subject_of("a.b", "my-sink_2", "7") == "a.b.my-sink_2.7"
    assert token("a b.ü") == "a=20b=2E=C3=BC"


def test_shards_do_not_change() -> None:
    """Readers and running sinks know symbols by them: another function would need another version."""
    found = [
        shard_of("binance", symbol, 64) for symbol in ("BTC/USDT", "ETH/USDT", "SOL/USDT:USDT")
    ]

    assert found == ["1", "27", "30"]


def test_symbols_are_spread_evenly() -> None:
    symbols = [f"COIN{number}/USDT" for number in range(3000)]
    counts = Counter(shard_of("binance", symbol, 32) for symbol in symbols)

    assert set(counts) == set(map(str, range(32)))
    assert max(counts.values()) < 2 * 3000 / 32


def test_events_without_a_symbol_have_a_shard_of_their_own() -> None:
    assert shard_names(3) == ["0", "1", "2", "all"]
    assert shard_names(1) == ["0"]
    assert shard_of("binance", "", 3) == "all"
    assert shard_of("binance", "", 1) == "0"


@given(st.text(max_size=9), st.text(max_size=9), st.text(max_size=9))
def test_a_position_has_the_shard_of_its_events(venue: str, symbol: str, channel: str) -> None:
    key = json.dumps([venue, symbol, channel])

    assert position_shard(key, 16) == shard_of(venue, symbol, 16)


@pytest.mark.parametrize("key", ["", "text", "[1", "5", "[]", '["one"]', "null"])
def test_a_position_of_another_form_has_no_shard(key: str) -> None:
    assert position_shard(key, 16) is None


def test_a_header_is_json_without_defaults() -> None:
    header = Header(1, "s", 5, 7, 9, 2, 0, "w")
    text = header_text(header)

    assert json.loads(text) == {
        "version": 1, "sink": "s", "epoch": 5, "first": 7, "last": 9, "count": 2, "fence": 0, "writer": "w",
    }  # fmt: skip
    assert parse_header({"Tapeloom": text}) == header


@pytest.mark.parametrize(
    "headers", [None, {}, {"Tapeloom": ""}, {"Tapeloom": "[]"}, {"Tapeloom": '{"version": 1}'}]
)
def test_a_message_without_a_header_is_refused(headers: dict[str, str] | None) -> None:
    with pytest.raises(SinkRefused, match=r"something else publishes there.*Choose another prefix"):
        parse_header(headers)


def test_fields_that_a_later_version_adds_to_a_header_are_ignored() -> None:
    text = header_text(Header(1, "s", 5, 7, 9, 2, 0, "w"))[:-1] + ',"added_later":1}'

    assert parse_header({"Tapeloom": text}).first == 7


@settings(max_examples=40, deadline=None)
@given(
    st.sets(st.integers(1, 10**12), min_size=1, max_size=30), st.dictionaries(st.text(), st.text())
)
def test_a_body_has_the_events_with_their_numbers_and_the_positions(
    numbers: set[int], positions: dict[str, str]
) -> None:
    numbered = sorted(numbers)
    events = sink_events(len(numbered), types=["trade"])

    size, body = body_of(events, numbered, positions)
    header = Header(1, "s", 1, numbered[0], numbered[-1], len(events), 0, "w", events_bytes=size)

    assert events_of(header, body) == list(zip(numbered, events, strict=True))
    assert positions_of(header, body) == positions


def parts_of(
    body: bytes, events: int, size: int, number: int = 1
) -> list[tuple[dict[str, str], bytes]]:
    count = -(-len(body) // size)
    return [
        (
            {
                "Tapeloom": header_text(
                    Header(
                        1, "s", 1, number, number, events, 0, "w",
                        events_bytes=len(body), part=part + 1, parts=count,
                    )
                )
            },
            body[part * size : (part + 1) * size],
        )
        for part in range(count)
    ]  # fmt: skip


def test_a_reader_joins_parts_and_drops_those_that_were_sent_again() -> None:
    (event,) = sink_events(1, types=["trade"])
    _, body = body_of([event], [5], {})
    parts = parts_of(body, 1, 50, number=5)
    reader = MessageReader()
    assert len(parts) > 2

    found = [reader.read("a", *part) for part in [*parts[:2], *parts[:1], *parts[1:]]]

    assert found == [[]] * (len(found) - 1) + [[(5, event)]]


def test_a_reader_keeps_subjects_apart_and_drops_a_body_without_its_first_part() -> None:
    (event,) = sink_events(1, types=["trade"])
    _, body = body_of([event], [5], {})
    parts = parts_of(body, 1, 100, number=5)
    reader = MessageReader()

    assert not any(reader.read("b", *part) for part in parts[1:])
    assert not reader.read("a", *parts[0])
    assert not any(reader.read("b", *part) for part in parts[1:])
    assert [reader.read("a", *part) for part in parts[1:]][-1] == [(5, event)]


def test_a_reader_returns_nothing_for_the_message_of_an_opening() -> None:
    header = header_text(Header(1, "s", 1, 0, 0, 0, 0, "w"))

    assert MessageReader().read("a", {"Tapeloom": header}, b"") == []
