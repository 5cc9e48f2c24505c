"""Requests and answers are found wherever the bytes of a connection are cut."""

from __future__ import annotations

import struct
from collections.abc import Callable, Hashable, Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tapeloom_testing.services import (
    Dialogue,
    NatsDialogue,
    PostgresDialogue,
    RawDialogue,
    RedisDialogue,
    is_commit,
    nats_subject,
    redis_command,
)

PAYLOADS = st.binary(max_size=40) | st.sampled_from(
    [
        b"\r\n",
        b"*1\r\n$4\r\nEXEC\r\n",
        b"\r\nPUB orders.x in.1 2\r\nhi\r\n",
        b"Q\0\0\0\x0bCOMMIT\0",
        b"",
    ]
)
CUTS = st.lists(st.integers(1, 9), max_size=30)


def pieces(data: bytes, sizes: Iterable[int]) -> Iterator[bytes]:
    """Yield the data in pieces of these sizes, and the rest at once."""
    for size in sizes:
        yield data[:size]
        data = data[size:]
    yield data


def requests(dialogue: Dialogue, data: bytes, sizes: Iterable[int]) -> list[tuple[Hashable, bytes]]:
    return [found for piece in pieces(data, sizes) for found in dialogue.requests(piece)]


def answers(dialogue: Dialogue, data: bytes, sizes: Iterable[int]) -> list[Hashable]:
    return [found for piece in pieces(data, sizes) for found in dialogue.answers(piece)]


def resp(value: object) -> bytes:
    """Encode a value in RESP, as both client and server do."""
    if isinstance(value, bytes):
        return b"$%d\r\n%s\r\n" % (len(value), value)
    if isinstance(value, list):
        return b"*%d\r\n" % len(value) + b"".join(map(resp, value))
    if isinstance(value, dict):
        inner = b"".join(resp(key) + resp(part) for key, part in value.items())
        return b"%%%d\r\n" % len(value) + inner
    return b"$-1\r\n" if value is None else b":%d\r\n" % value  # type: ignore[str-bytes-safe]


REPLIES = st.recursive(
    PAYLOADS | st.none() | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PAYLOADS, inner, max_size=2),
    max_leaves=8,
)


@given(
    st.lists(
        st.tuples(st.sampled_from([b"EXEC", b"xadd", b"SET"]), st.lists(PAYLOADS, max_size=3))
    ),
    CUTS,
)
def test_redis_commands_are_found_by_name(
    commands: list[tuple[bytes, list[bytes]]], sizes: list[int]
) -> None:
    data = b"".join(resp([name, *parts]) for name, parts in commands)

    assert requests(RedisDialogue(), data, sizes) == [
        (number, name) for number, (name, _) in enumerate(commands, 1)
    ]


@given(st.lists(REPLIES), CUTS)
def test_redis_replies_are_counted_and_pushed_messages_are_not(
    replies: list[object], sizes: list[int]
) -> None:
    pushed = b">2\r\n+message\r\n" + resp(b"news")
    data = b"".join(resp(reply) + pushed for reply in replies)

    assert answers(RedisDialogue(), data, sizes) == list(range(1, len(replies) + 1))


def nats_message(name: bytes, words: list[bytes], payload: bytes) -> bytes:
    head = b"NATS/1.0\r\nNats-Msg-Id: 1\r\n\r\n"
    if name in {b"HPUB", b"HMSG"}:
        sizes, payload = [b"%d" % len(head), b"%d" % (len(head) + len(payload))], head + payload
    else:
        sizes = [b"%d" % len(payload)]
    return b" ".join([name, *words, *sizes]) + b"\r\n" + payload + b"\r\n"


@given(
    st.lists(st.tuples(st.sampled_from([b"PUB", b"HPUB", b"PING"]), st.booleans(), PAYLOADS)), CUTS
)
def test_nats_messages_with_a_reply_subject_are_requests(
    messages: list[tuple[bytes, bool, bytes]], sizes: list[int]
) -> None:
    data, expected = b"", []
    for number, (name, replied, payload) in enumerate(messages):
        if name == b"PING":
            data += b"PING\r\n"
            continue
        inbox = b"_INBOX.%d" % number
        data += nats_message(name, [b"orders.x", *([inbox] if replied else [])], payload)
        expected += [(inbox, b"orders.x")] if replied else []

    assert requests(NatsDialogue(), data, sizes) == expected


@given(st.lists(st.tuples(st.sampled_from([b"MSG", b"HMSG"]), st.booleans(), PAYLOADS)), CUTS)
def test_nats_messages_delivered_are_answers_by_subject(
    messages: list[tuple[bytes, bool, bytes]], sizes: list[int]
) -> None:
    data = b'INFO {"version":"2"}\r\n' + b"".join(
        nats_message(name, [b"in.%d" % number, b"7", *([b"back"] if replied else [])], payload)
        + b"+OK\r\n"
        for number, (name, replied, payload) in enumerate(messages)
    )

    assert answers(NatsDialogue(), data, sizes) == [b"in.%d" % n for n in range(len(messages))]


def pg(kind: bytes, body: bytes = b"") -> bytes:
    return kind + struct.pack("!I", 4 + len(body)) + body


ENCRYPTION_QUESTION = struct.pack("!II", 8, 80_877_103)
STARTUP = struct.pack("!II", 8 + 15, 196_608) + b"user\0postgres\0\0"[:15].ljust(15, b"\0")


@given(st.lists(st.tuples(st.booleans(), PAYLOADS)), st.integers(0, 2), CUTS, CUTS)
def test_postgres_statements_belong_to_the_query_that_ends_next(
    statements: list[tuple[bool, bytes]], questions: int, sent: list[int], received: list[int]
) -> None:
    """A simple query is one message; of an extended one, the statement comes before the Sync."""
    dialogue = PostgresDialogue()
    data = ENCRYPTION_QUESTION * questions + STARTUP
    expected = []
    for number, (simple, payload) in enumerate(statements, 1):
        sql = payload.replace(b"\0", b"") + b"; COMMIT"
        expected.append((number, sql))
        if simple:
            data += pg(b"Q", sql + b"\0")
        else:
            data += (
                pg(b"P", b"\0" + sql + b"\0\0\0")
                + pg(b"B", b"\0\0" + payload)
                + pg(b"E")
                + pg(b"S")
            )
    row_and_end = pg(b"D", b"Z\0\0\0\x05I") + pg(b"C", b"COMMIT\0") + pg(b"Z", b"I")
    answer = b"N" * questions + pg(b"R") + pg(b"Z", b"I") + row_and_end * len(statements)
    first = b"N" * questions + pg(b"R") + pg(b"Z", b"I")

    found = requests(dialogue, data[: 8 * questions + len(STARTUP)], sent)
    assert answers(dialogue, first, received) == []
    found += requests(dialogue, data[8 * questions + len(STARTUP) :], sent)

    assert found == expected
    assert answers(dialogue, answer[len(first) :], received) == [number for number, _ in expected]


def test_an_unknown_protocol_has_reads_as_requests_and_the_next_read_answers_them() -> None:
    dialogue = RawDialogue()

    assert list(dialogue.answers(b"greeting")) == []
    assert [*dialogue.requests(b"a"), *dialogue.requests(b"b")] == [(1, b"a"), (2, b"b")]
    assert list(dialogue.answers(b"both")) == [1, 2]
    assert list(dialogue.answers(b"more")) == []


@pytest.mark.parametrize(
    ("matches", "request_text", "expected"),
    [
        (is_commit, b"COMMIT", True),
        (is_commit, b"commit;", True),
        (is_commit, b"BEGIN; INSERT INTO t VALUES (1); END", True),
        (is_commit, b"SELECT 'COMMIT'", False),
        (is_commit, b"COMMITTED", False),
        (redis_command("exec"), b"EXEC", True),
        (redis_command("EXEC"), b"exec", True),
        (redis_command("EXEC"), b"EXECUTE", False),
        (nats_subject("orders."), b"orders.x", True),
        (nats_subject("orders."), b"other.orders.x", False),
    ],
)
def test_a_commit_point_is_told_from_other_requests(
    matches: Callable[[bytes], bool], request_text: bytes, expected: bool
) -> None:
    assert matches(request_text) is expected
