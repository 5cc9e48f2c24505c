"""Frames out of bytes, held against wsproto: the same bytes, split anywhere, give the same.

``python core/tests/test_framing.py --examples 100000`` is the long run, a part of ``nox -s fuzz``.
"""

from __future__ import annotations

import argparse
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from attrs import define, field
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tapeloom._network.frame_decoder import Decoder
from tapeloom._network.inflate import Inflate
from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import CloseReason, FrameProtocol, Opcode, ParseFailed

LIMIT = 1 << 20
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
TAIL = b"\x00\x00\xff\xff"


def frame(payload: bytes, opcode: int = TEXT, *, fin: bool = True, deflated: bool = False) -> bytes:
    head = bytes(((0x80 if fin else 0) | (0x40 if deflated else 0) | opcode,))
    return head + length(len(payload)) + payload


def length(size: int) -> bytes:
    if size < 126:
        return bytes((size,))
    return struct.pack("!BH", 126, size) if size < 1 << 16 else struct.pack("!BQ", 127, size)


class Deflater:
    """The sending half of RFC 7692."""

    def __init__(self, forget: bool = False, window: int = 15) -> None:
        self.forget = forget
        self._window = window
        self._stream = self._new()

    def _new(self) -> Any:
        return zlib.compressobj(6, zlib.DEFLATED, -self._window)

    def __call__(self, payload: bytes) -> bytes:
        out = self._stream.compress(payload) + self._stream.flush(zlib.Z_SYNC_FLUSH)
        if self.forget:
            self._stream = self._new()
        assert out.endswith(TAIL)
        return bytes(out[:-4])


# ---------------------------------------------------------------------------------- two decoders


@define
class Outcome:
    """What was read, until `error`, a close code; or until `ended`."""

    messages: list[bytes] = field(factory=list)
    control: list[tuple[int, Any]] = field(factory=list)
    error: int | None = None
    ended: bool = False


class Mended(PerMessageDeflate):
    """wsproto's extension, less five faults of version 1.3.2 that it shows to these tests.

    It forgets at a control frame that the message around it is compressed. It inflates a frame that
    should not be there and so blames its bytes. It gives out what the end of a message turns to where
    the message is not complete. It takes an empty message without a byte. And it reads nothing after
    a final block: that is only noted here, in `final`.
    """

    def __init__(self, forget: bool) -> None:
        super().__init__(server_no_context_takeover=forget)
        self.finalize("permessage-deflate")
        self.final = self._any = False

    def frame_inbound_header(
        self, proto: Any, opcode: Opcode, rsv: Any, payload_length: int
    ) -> Any:
        if opcode.iscontrol():
            self._control = True
            return CloseReason.PROTOCOL_ERROR if rsv.rsv1 else rsv._replace(rsv2=False, rsv3=False)
        self._control = False
        if (opcode is Opcode.CONTINUATION) is (self._inbound_compressed is None):
            return CloseReason.PROTOCOL_ERROR
        return super().frame_inbound_header(proto, opcode, rsv, payload_length)

    def frame_inbound_payload_data(self, proto: Any, data: bytes) -> Any:
        if self._control:
            return data
        self._any = self._any or bool(data)
        out = super().frame_inbound_payload_data(proto, data)
        self._note()
        return out

    def frame_inbound_complete(self, proto: Any, fin: bool) -> Any:
        if self._control:
            return None
        deflated = self._inbound_compressed
        stream, taken = self._decompressor, self._any
        if fin:
            self._any = False
        out = super().frame_inbound_complete(proto, fin)
        self.final = self.final or (stream is not None and stream.eof)
        broken = fin and deflated and not isinstance(out, CloseReason) and (out or not taken)
        return CloseReason.INVALID_FRAME_PAYLOAD_DATA if broken else out

    def _note(self) -> None:
        self.final = self.final or (self._decompressor is not None and self._decompressor.eof)


@define
class Settled:
    """What was agreed on in the handshake."""

    deflate: bool = False
    forget: bool = False

    def decoder(self, limit: int = LIMIT) -> Decoder:
        return Decoder(limit, Inflate(self.forget) if self.deflate else None)


def by_wsproto(data: bytes, settled: Settled) -> tuple[Outcome, bool]:
    """Return what wsproto reads, and whether it met a final block."""
    extensions = [Mended(settled.forget)] if settled.deflate else []
    protocol = FrameProtocol(client=True, extensions=list(extensions))
    protocol.receive_bytes(data)
    outcome = Outcome()
    pieces: list[Any] = []
    try:
        for one in protocol.received_frames():
            if one.opcode in (Opcode.TEXT, Opcode.BINARY):
                pieces.append(one.payload)
                if one.message_finished:
                    whole = pieces[0][:0].join(pieces)
                    outcome.messages.append(whole.encode() if isinstance(whole, str) else whole)
                    pieces = []
            else:
                outcome.control.append((int(one.opcode), one.payload))
                outcome.ended = one.opcode is Opcode.CLOSE
    except ParseFailed as failed:
        outcome.error = int(failed.code)
    header = protocol._frame_decoder.header
    if header is not None and header.payload_len > LIMIT and outcome.error != 1002:
        outcome.error = 1009  # wsproto has no limit, and would look at what is there
    return outcome, any(one.final for one in extensions)


def by_us(parts: Iterable[bytes], decoder: Decoder) -> Outcome:
    outcome = Outcome()
    for part in parts:
        outcome.messages += decoder.feed(part)
    for opcode, payload in decoder.control:
        told: Any = payload
        if opcode == CLOSE:
            code, reason = decoder.control[-1].close_reason()
            told = (1005 if code is None else code, reason)
        outcome.control.append((opcode, told))
    outcome.error = decoder.error.code if decoder.error is not None else None
    outcome.ended = decoder.ended and decoder.error is None
    return outcome


def split(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    return [data[a:b] for a, b in pairwise(edges) if b > a]


def splits(data: bytes, cuts: list[int]) -> Iterable[list[bytes]]:
    """Yield ways to split *data*: at *cuts*, at every place if there are few, and in single bytes."""
    yield [data]
    yield split(data, cuts)
    if len(data) <= 600:
        yield split(data, range(len(data)))
    if len(data) <= 40:
        yield from (split(data, [cut]) for cut in range(1, len(data)))


def compare(sent: Sent) -> Outcome | None:
    """Hold every split of the bytes against wsproto; None where wsproto cannot tell."""
    data, settled = sent.data, sent.settled
    expected, final = by_wsproto(data, settled)
    found: list[Outcome] = []
    for parts in splits(data, sent.cuts):
        decoder = settled.decoder()
        ours = by_us(parts, decoder)
        if expected.error is not None and ours.error is None and decoder._parts:
            # wsproto looks into a frame that is not complete. Whatever completes it: it is wrong.
            ours = by_us([bytes(decoder._need - decoder._size)], decoder)
            ours.messages = found[0].messages if found else expected.messages
        found.append(ours)
    assert all(one == found[0] for one in found)
    if final:
        return None
    if found[0].error is not None and expected.error is None:
        # We look at two bytes of a header that is not complete. However it goes on, it is wrong.
        expected, _ = by_wsproto(data + b"\x01" * 8, settled)
    assert found[0] == expected
    return expected


# ----------------------------------------------------------------------------------- what is sent

texts = st.text(max_size=60).map(str.encode)
sized = st.sampled_from([0, 1, 125, 126, 127, 300, 65535, 65536, 70000]).map(lambda n: b"x" * n)
broken_texts = st.sampled_from(
    [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"a\xe2\x82"]
)
codes = st.one_of(
    st.sampled_from([1000, 1001, 1002, 1003, 1007, 1011, 1012, 1013, 3000, 3999, 4000, 4999]),
    st.sampled_from([0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535]),
)
closes = st.one_of(
    st.just(b""),
    st.builds(
        lambda code, text: struct.pack("!H", code) + text,
        codes,
        st.text(max_size=20).map(str.encode) | broken_texts,
    ),
    st.binary(min_size=1, max_size=1),
)
cuts = st.lists(st.integers(0, 1 << 20), max_size=8)
controls = st.builds(frame, st.binary(max_size=125), st.sampled_from([PING, PONG]))
#: Frames that nobody may send, alone or anywhere.
WRONG = [
    b"\x81\x85\x00\x00\x00\x00hello",  # masked
    b"\x81\xfe\x00\x80",
    b"\x09\x01x",  # a control frame in pieces
    b"\x89\x7e\x00\x7e" + b"x" * 126,  # one too long
    b"\x80\x01x",  # the rest of nothing
    b"\x00\x01x",
    b"\x81\x7e\x00\x7d" + b"x" * 125,  # a length in more bytes than it needs
    b"\x82\x7f" + struct.pack("!Q", 65535),
    b"\x81\x7f" + struct.pack("!Q", 1 << 63),
    b"\x81\x7f" + struct.pack("!Q", LIMIT + 1),
    b"\x01\x01a\x01\x01b\x80\x00",  # a message inside another
    b"\x01\x01a\x82\x01b",
]
anything = st.builds(
    lambda first, rest: bytes((first, len(rest))) + rest, st.integers(0, 255), st.binary(max_size=9)
)
wrong = st.one_of(st.sampled_from(WRONG), anything, st.binary(max_size=30))


@define
class Sent:
    """What comes from the server, split at `cuts`."""

    data: bytes = field(repr=lambda data: repr(data) if len(data) < 500 else f"{len(data)} bytes")
    settled: Settled
    cuts: list[int]


@st.composite
def conversations(draw: st.DrawFn) -> Sent:
    """Messages whole and in pieces, compressed or not, and control frames; then something wrong."""
    settled = draw(st.builds(Settled, st.booleans(), st.booleans()))
    # A server may point back into messages that it has promised not to know.
    deflate = Deflater(settled.forget and draw(st.sampled_from([True, True, False])))
    out = b""
    for _ in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from("mmmmcb"))
        if kind == "c":
            out += draw(controls)
        elif kind == "b":
            out += frame(draw(st.binary(max_size=200)), BINARY)
        else:
            out += draw(message(settled, deflate))
    how = draw(st.sampled_from(["well", "close", "wrong", "flip", "cut"]))
    if how == "close":
        out += frame(draw(closes), CLOSE) + draw(controls | wrong)
    elif how == "wrong":
        out += draw(wrong) + draw(controls)
    elif how == "cut":
        out = out[: draw(st.integers(0, len(out)))]
    elif how == "flip" and out:
        place = draw(st.integers(0, min(len(out), 400) - 1))
        out = out[:place] + bytes((out[place] ^ 1 << draw(st.integers(0, 7)),)) + out[place + 1 :]
    return Sent(out, settled, draw(cuts))


@st.composite
def message(draw: st.DrawFn, settled: Settled, deflate: Deflater) -> bytes:
    payload = draw(st.one_of(texts, texts, sized, broken_texts))
    opcode = draw(st.sampled_from([TEXT, TEXT, BINARY]))
    deflated = settled.deflate and draw(st.booleans())
    if deflated:
        payload = deflate(payload)
    pieces = [payload]
    if draw(st.booleans()):
        # A character may be torn, a piece may be empty.
        pieces = split(payload, draw(st.lists(st.integers(0, 1 << 20), max_size=3))) or [b""]
        pieces += [b""] * draw(st.integers(0, 1))
    out = b""
    for number, piece in enumerate(pieces):
        first, last = number == 0, number == len(pieces) - 1
        out += frame(piece, opcode if first else 0, fin=last, deflated=deflated and first)
        if not last and draw(st.booleans()):
            out += draw(controls)
    return out


def held_against_wsproto(examples: int) -> Counter[str]:
    """Compare as many conversations; return how they ended."""
    ends: Counter[str] = Counter()

    @settings(
        max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(conversations())
    def run(sent: Sent) -> None:
        outcome = compare(sent)
        if outcome is None:
            ends["wsproto cannot tell"] += 1
        else:
            ends[
                f"{outcome.error}" if outcome.error else "closed" if outcome.ended else "open"
            ] += 1

    run()
    return ends


@pytest.mark.thorough
def test_any_split_of_any_bytes_gives_what_wsproto_gives() -> None:
    ends = held_against_wsproto(1500)

    assert set(ends) >= {"open", "closed", "1002", "1007"}
    assert ends["wsproto cannot tell"] < 0.05 * ends.total()


# ------------------------------------------------------------------------------------ case by case


def decoded(data: bytes, decoder: Decoder | None = None) -> Outcome:
    return by_us([data], decoder or Decoder(LIMIT))


DEFLATED = Settled(deflate=True)


def test_every_single_byte_split_of_a_fragmented_message_is_put_together() -> None:
    data = frame(b"ab", fin=False) + frame(b"?", PING) + frame(b"cd", 0) + frame(b"y" * 200)
    found = by_us(split(data, range(len(data))), Decoder(LIMIT))

    assert found == Outcome([b"abcd", b"y" * 200], [(PING, b"?")])


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x81\x85\x00\x00\x00\x00hello", 1002),  # masked, short
        (b"\x81\xfe\x00\x80", 1002),  # masked, two bytes of length
        (b"\xc1\x01x", 1002),  # compressed, which was not agreed on
        (b"\xa1\x01x", 1002),  # reserved bits
        (b"\x91\x01x", 1002),
        (b"\xc9\x00", 1002),
        (b"\x09\x01x", 1002),  # control frame in fragments
        (b"\x89\x7e\x00\x7e" + b"x" * 126, 1002),  # control frame too long
        (b"\x80\x01x", 1002),  # continuation of nothing
        (frame(b"a", fin=False) + frame(b"b"), 1002),  # new message inside another
        (b"\x83\x01x", 1002),  # unknown data opcode
        (b"\x8b\x00", 1002),  # unknown control opcode
        (b"\x81\x7e\x00\x7d" + b"x" * 125, 1002),  # two bytes for a length that fits in none
        (b"\x81\x7f" + struct.pack("!Q", 65535), 1002),  # eight for one that fits in two
        (b"\x81\x7f" + struct.pack("!Q", 1 << 63), 1002),  # the first bit of eight
        (b"\x81\x7f" + struct.pack("!Q", LIMIT + 1), 1009),  # too large, told by its header alone
        (frame(b"x" * LIMIT, fin=False) + b"\x80\x01", 1009),  # too large, by adding up
        (frame(b"caf\xe9"), 1007),  # no UTF-8
        (frame(b"\xed\xa0\x80"), 1007),  # half of a pair
        (frame(b"\xc3", fin=False) + frame(b"a", 0), 1007),
        (frame(b"\xff", fin=False), 1007),  # it is not waited for the rest
        (frame(b"\xe2\x82"), 1007),  # a character without its end
        (frame(b"\x03", CLOSE), 1002),  # half a code
        (frame(b"\x03\xe8\xff", CLOSE), 1007),  # a reason that is no text
    ],
)  # fmt: skip
def test_a_peer_that_breaks_the_protocol_is_answered_with_the_right_code(
    data: bytes, code: int
) -> None:
    assert decoded(frame(b"good") + data) == Outcome([b"good"], error=code)


@pytest.mark.parametrize("first", [0xC0, 0x40, 0xC9, 0xC8, 0xE1, 0xD1, 0x71])
def test_the_bit_of_compression_is_for_the_start_of_a_message_alone(first: int) -> None:
    start = frame(b"a", fin=False) if first in (0xC0, 0x40) else b""
    found = decoded(start + bytes((first, 1)) + b"x", DEFLATED.decoder())

    assert found.error == 1002


def test_what_is_wrong_with_a_header_is_told_before_its_payload_comes() -> None:
    found = decoded(b"\xa1\x7f" + struct.pack("!Q", LIMIT))

    assert found.error == 1002


def test_binary_messages_need_not_be_text() -> None:
    data = frame(b"\xff\xfe", BINARY) + frame(b"\xff", BINARY, fin=False) + frame(b"\xfe", 0)

    assert decoded(data) == Outcome([b"\xff\xfe", b"\xff\xfe"])


def test_a_message_as_large_as_the_limit_is_taken_and_one_byte_more_is_not() -> None:
    for limit in (0, 1, 125, 126, 1000, 65535, 65536):
        assert decoded(frame(b"x" * limit), Decoder(limit)) == Outcome([b"x" * limit])
        assert decoded(frame(b"x" * (limit + 1)), Decoder(limit)).error == 1009


def test_a_message_in_very_many_reads_or_pieces_costs_no_more_memory_than_its_bytes() -> None:
    decoder = Decoder(LIMIT)
    data = frame(b"x" * 50_000)
    for number in range(len(data) - 1):
        decoder.feed(data[number : number + 1])
    assert len(decoder._parts) <= 1001
    assert decoder.feed(data[-1:]) == [b"x" * 50_000]

    found = decoded(frame(b"x", fin=False) + frame(b"", 0, fin=False) * 50_000 + frame(b"y", 0))
    assert found.messages == [b"xy"]


@pytest.mark.parametrize("code", [1000, 1003, 1007, 1011, 1012, 1013, 1014, 3000, 4999])
def test_a_close_frame_tells_code_and_reason(code: int) -> None:
    found = decoded(frame(struct.pack("!H", code) + "à bientôt".encode(), CLOSE))

    assert found == Outcome(control=[(CLOSE, (code, "à bientôt"))], ended=True)


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535])
def test_a_close_code_that_may_not_be_sent_is_a_violation(code: int) -> None:
    assert decoded(frame(struct.pack("!H", code), CLOSE)) == Outcome(error=1002)


def test_what_follows_a_close_frame_is_not_read() -> None:
    decoder = Decoder(LIMIT)
    found = decoded(frame(b"last") + frame(b"", CLOSE) + frame(b"more") + b"\xff\xff", decoder)

    assert found == Outcome([b"last"], [(CLOSE, (1005, ""))], ended=True)
    assert decoder.feed(frame(b"more")) == []


# ------------------------------------------------------------------------------- compressed messages


@pytest.mark.parametrize("forget", [False, True])
@pytest.mark.parametrize("window", range(9, 16))
def test_compressed_messages_come_out_as_they_were(forget: bool, window: int) -> None:
    deflate = Deflater(forget, window)
    messages = [f"{'größer ' * n} {n}".encode() for n in range(300)]
    data = b"".join(frame(deflate(one), deflated=True) for one in messages)

    assert decoded(data, Settled(True, forget).decoder()).messages == messages


def test_the_examples_of_the_rfc_are_read_as_it_says() -> None:
    # RFC 7692 §7.2.3: one block; in two frames; the same again; not compressed; two blocks.
    data = bytes.fromhex(
        "c107 f248cdc9c90700"
        "4103 f248cd 8004 c9c90700"
        "c105 f200110000"
        "c10b 000500faff48656c6c6f00"
        "c10d f24805000000ffffcac9c90700"
    )
    assert decoded(data, DEFLATED.decoder()).messages == [b"Hello"] * 5


def test_a_final_block_ends_the_stream_and_the_next_message_begins_another() -> None:
    # RFC 7692 §7.2.3.4, and without the byte that it adds.
    with_byte, without = (
        bytes.fromhex("c108 f348cdc9c9070000"),
        bytes.fromhex("c107 f348cdc9c90700"),
    )
    data = with_byte + without + with_byte + frame(Deflater()(b"Hello"), deflated=True)

    assert decoded(data, DEFLATED.decoder()).messages == [b"Hello"] * 4


def test_compressed_and_plain_messages_and_control_frames_may_alternate() -> None:
    payload = Deflater()(b"Hello")
    data = (
        frame(payload[:3], fin=False, deflated=True) + frame(b"?", PING) + frame(payload[3:], 0)
        + frame(b"plain") + frame(Deflater()(b""), BINARY, deflated=True)
    )  # fmt: skip
    found = decoded(data, DEFLATED.decoder())

    assert found == Outcome([b"Hello", b"plain", b""], [(PING, b"?")])


@pytest.mark.parametrize("pieces", [1, 5])
def test_a_message_inflates_up_to_the_limit_and_no_further(pieces: int) -> None:
    for size, error in ((LIMIT, None), (LIMIT + 1, 1009)):
        parts = split(Deflater()(b"x" * size), range(0, 1000, 1000 // pieces))
        data = b"".join(
            frame(one, 0 if n else TEXT, fin=n == len(parts) - 1, deflated=n == 0)
            for n, one in enumerate(parts)
        )
        assert decoded(data, DEFLATED.decoder()).error == error


def test_a_bomb_is_not_inflated() -> None:
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = b"\0" * (1 << 24)
    bomb = b"".join(stream.compress(block) for _ in range(16)) + stream.flush(zlib.Z_SYNC_FLUSH)
    assert len(bomb) < LIMIT < 1 << 28
    inflate = Inflate(forget=False)

    assert len(inflate.piece(bomb, LIMIT, final=True)) == LIMIT + 1
    assert decoded(frame(bomb, deflated=True), DEFLATED.decoder()).error == 1009


@pytest.mark.parametrize(
    "payload",
    [
        b"",  # an empty message is one byte
        b"\xff\xff\xff",  # no such block
        Deflater()(b"Hello, and more than that")[:-9],  # without its end
        zlib.compressobj(0, zlib.DEFLATED, -15).compress(b"x" * 70_000)[:500],
        b"\x03\x00" * 100,  # a hundred ends of the stream
        b"\x02\x08\x00\x00\x00",  # further back than anything has come
    ],
)
@pytest.mark.parametrize("forget", [False, True])
def test_bytes_that_do_not_inflate_are_a_violation(payload: bytes, forget: bool) -> None:
    assert decoded(frame(payload, deflated=True), Settled(True, forget).decoder()).error == 1007


def test_a_server_that_promised_to_forget_may_not_point_back() -> None:
    deflate = Deflater()
    data = b"".join(frame(deflate(b"Hello, Hello"), deflated=True) for _ in range(2))

    assert decoded(data, DEFLATED.decoder()) == Outcome([b"Hello, Hello"] * 2)
    assert decoded(data, Settled(True, True).decoder()) == Outcome([b"Hello, Hello"], error=1007)


def test_a_compressed_text_that_is_no_utf_8_is_a_violation() -> None:
    data = frame(Deflater()(b"caf\xe9"), deflated=True)

    assert decoded(data, DEFLATED.decoder()).error == 1007


# -------------------------------------------------------------------------------------- the long run


def main() -> int:
    """Compare as many conversations as are asked for; print how they ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=100_000)
    given = parser.parse_args()
    before = time.perf_counter()
    ends = held_against_wsproto(given.examples)
    print(
        f"{ends.total():,} conversations read as wsproto reads them,"
        f" in {time.perf_counter() - before:.0f} s: "
        + ", ".join(f"{end} {count:,}" for end, count in ends.most_common())
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
