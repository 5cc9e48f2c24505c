"""Frames out of bytes, held against wsproto."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tapeloom._framing import Decoder
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import BytesMessage, CloseConnection, Message, Ping, Pong, TextMessage

LIMIT = 1 << 20


def frame(payload: bytes, opcode: int = 1, fin: bool = True) -> bytes:
    head = bytes(((0x80 if fin else 0) | opcode,))
    if len(payload) < 126:
        return head + bytes((len(payload),)) + payload
    if len(payload) < 1 << 16:
        return head + struct.pack("!BH", 126, len(payload)) + payload
    return head + struct.pack("!BQ", 127, len(payload)) + payload


def by_wsproto(data: bytes) -> tuple[list[bytes], list[tuple[str, bytes]]]:
    connection = Connection(ConnectionType.CLIENT)
    connection.receive_data(data)
    messages: list[bytes] = []
    control: list[tuple[str, bytes]] = []
    parts: list[bytes] = []
    for event in connection.events():
        if isinstance(event, Message):
            assert isinstance(event, TextMessage | BytesMessage)
            parts.append(event.data.encode() if isinstance(event.data, str) else bytes(event.data))
            if event.message_finished:
                messages.append(b"".join(parts))
                parts = []
        elif isinstance(event, Ping):
            control.append(("ping", bytes(event.payload)))
        elif isinstance(event, Pong):
            control.append(("pong", bytes(event.payload)))
        elif isinstance(event, CloseConnection):
            control.append(("close", b""))
    return messages, control


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    return [data[a:b] for a, b in pairwise(edges) if b > a]


texts = st.text(max_size=300).map(str.encode)
sized = st.sampled_from([0, 1, 125, 126, 127, 65535, 65536, 70000]).map(lambda n: b"x" * n)
payloads = texts | sized


@st.composite
def conversations(draw: st.DrawFn) -> bytes:
    """Whole messages, fragmented ones, and control frames anywhere between."""
    out = b""
    for payload in draw(st.lists(payloads, max_size=6)):
        control = [
            frame(draw(st.binary(max_size=125)), draw(st.sampled_from([9, 10])))
            for _ in range(draw(st.integers(0, 2)))
        ]
        if draw(st.booleans()):
            out += frame(payload, draw(st.sampled_from([1, 2])) if payload.isascii() else 1)
            out += b"".join(control)
        else:
            # Cut where no character is torn: wsproto decodes fragment by fragment.
            text = payload.decode()
            cut = draw(st.integers(0, len(text)))
            out += frame(text[:cut].encode(), 1, fin=False) + b"".join(control)
            out += frame(text[cut:].encode(), 0)
    return out


@settings(max_examples=150, deadline=None)
@given(conversations(), st.lists(st.integers(0, 1 << 20), max_size=12))
def test_any_split_of_the_bytes_gives_what_wsproto_gives(data: bytes, cuts: list[int]) -> None:
    decoder = Decoder(LIMIT)
    messages: list[bytes] = []
    for part in split(data, cuts):
        messages += decoder.feed(part)
    control = [("ping" if one.is_ping else "pong", one.payload) for one in decoder.control]

    assert (messages, control) == by_wsproto(data)


def test_every_single_byte_split_of_a_fragmented_message_is_put_together() -> None:
    data = frame(b"ab", 1, fin=False) + frame(b"?", 9) + frame(b"cd", 0) + frame(b"y" * 200)
    decoder = Decoder(LIMIT)
    messages = [one for byte in data for one in decoder.feed(bytes((byte,)))]

    assert messages == [b"abcd", b"y" * 200]
    assert [one.payload for one in decoder.control] == [b"?"]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x81\x85\x00\x00\x00\x00hello", 1002),  # masked, short
        (b"\x81\xfe\x00\x80", 1002),  # masked, two bytes of length
        (b"\xc1\x01x", 1002),  # reserved bit
        (b"\x09\x01x", 1002),  # control frame in fragments
        (b"\x89\x7e\x00\x7e" + b"x" * 126, 1002),  # control frame too long
        (b"\x80\x01x", 1002),  # continuation of nothing
        (frame(b"a", 1, fin=False) + frame(b"b", 1), 1002),  # new message inside another
        (b"\x83\x01x", 1002),  # unknown data opcode
        (b"\x8b\x00", 1002),  # unknown control opcode
        (b"\x81\x7f" + struct.pack("!Q", LIMIT + 1), 1009),  # too large, told by its header alone
        (frame(b"x" * LIMIT, 1, fin=False) + frame(b"x", 0), 1009),  # too large, by adding up
    ],
)
def test_a_peer_that_breaks_the_protocol_is_answered_with_the_right_code(
    data: bytes, code: int
) -> None:
    decoder = Decoder(LIMIT)
    decoder.feed(data)

    assert decoder.error is not None
    assert decoder.error.code == code


def test_messages_before_a_violation_in_the_same_read_are_not_lost() -> None:
    decoder = Decoder(LIMIT)
    messages = decoder.feed(frame(b"good") + b"\xc1\x00")

    assert messages == [b"good"]
    assert decoder.error is not None


def test_a_close_frame_tells_code_and_reason() -> None:
    decoder = Decoder(LIMIT)
    decoder.feed(frame(struct.pack("!H", 1001) + b"going away", 8) + frame(b"", 8))

    assert [one.close_reason() for one in decoder.control] == [(1001, "going away"), (None, "")]
