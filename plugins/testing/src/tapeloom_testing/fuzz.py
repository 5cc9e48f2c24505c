"""Broken frames without end, made of good ones: what an adapter must bear."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

__all__ = ["mutants"]


def mutants(frames: Sequence[bytes], chance: Random) -> Iterator[bytes]:
    """Yield mutants of *frames*, for ever; the same ones for the same state of *chance*.

    Half of them are broken as bytes: cut, flipped, spliced, repeated. The other half are JSON with
    something wrong in it: a field that lacks, is of another type, or holds a number that no computer
    likes. Where frames are no JSON, all are broken as bytes.
    """
    while True:
        frame = frames[chance.randrange(len(frames))]
        if chance.random() < 0.5:
            try:
                value = json.loads(frame)
            except ValueError:
                pass
            else:
                yield _twisted(value, chance)
                continue
        yield _BROKEN[chance.randrange(len(_BROKEN))](frame, frames, chance)


# ------------------------------------------------------------------------------------- as bytes

_Break = Callable[[bytes, Sequence[bytes], Random], bytes]


def _cut(frame: bytes, frames: Sequence[bytes], chance: Random) -> bytes:
    return frame[: chance.randrange(len(frame) + 1)]


def _beheaded(frame: bytes, frames: Sequence[bytes], chance: Random) -> bytes:
    return frame[chance.randrange(len(frame) + 1) :]


def _flipped(frame: bytes, frames: Sequence[bytes], chance: Random) -> bytes:
    out = bytearray(frame)
    for _ in range(chance.choice((1, 1, 2, 8)) if out else 0):
        out[chance.randrange(len(out))] ^= 1 << chance.randrange(8)
    return bytes(out)


def _overwritten(frame: bytes, frames: Sequence[bytes], chance: Random) -> bytes:
    at = chance.randrange(len(frame) + 1)
    piece = chance.choice(_PIECES)
    return frame[:at] + piece + frame[at + chance.choice((0, 1, len(piece))) :]


def _repeated(frame: bytes, frames: Sequence[bytes], chance: Random) -> bytes:
    start = chance.randrange(len(frame) + 1)
    stop = min(len(frame), start + chance.randrange(1, 40))
    return frame[:stop] + frame[start:stop] * chance.choice((1, 2, 50)) + frame[stop:]


def _spliced(frame: bytes, frames: Sequence[bytes], chance: Random) -> bytes:
    other = frames[chance.randrange(len(frames))]
    return frame[: chance.randrange(len(frame) + 1)] + other[chance.randrange(len(other) + 1) :]


_BROKEN: tuple[_Break, ...] = (_cut, _beheaded, _flipped, _overwritten, _repeated, _spliced)
_PIECES = (
    b"", b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"{", b"}", b"[", b"]", b'"', b",", b":", b"\\u0000",
    b"null", b"NaN", b"-Infinity", b"1e999", b"-0", b"0" * 400, b"9" * 400, b"[" * 2000, b'{"a":' * 500,
)  # fmt: skip

# -------------------------------------------------------------------------------------- as JSON

_STRANGE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 1e308, -1e-308, 10**30, -(10**400), 2**63, "", " ", "NaN", "-1",
    "Infinity", "-Infinity", "1e400", "0x10", "1_0", "٣", "\ud800", "\x00", "x" * 5000, "1" * 400,
    "0." + "0" * 300 + "1", [], {}, [[]], [None], {"": None}, [[["1", "2"]]], ["1"],
)  # fmt: skip


def _twisted(value: Any, chance: Random) -> bytes:
    """Write *value* with something wrong in it."""
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        value = _twist(value, chance)
    try:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=chance.random() < 0.5).encode(
            errors="surrogatepass"
        )
    except RecursionError:
        return b"[" * 5000


def _twist(value: Any, chance: Random) -> Any:
    """Put something strange in the place of some part of *value*."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        return _twist_object(value, chance)
    if isinstance(value, list) and value and chance.random() < 0.9:
        return _twist_list(value, chance)
    if isinstance(value, str) and value and chance.random() < 0.5:
        return _flipped(value.encode(errors="replace"), (), chance).decode(errors="replace")
    if isinstance(value, int | float) and not isinstance(value, bool) and chance.random() < 0.5:
        return value * chance.choice((-1, 0, 1000, 10**9))
    return chance.choice(_STRANGE)


def _twist_object(value: dict[str, Any], chance: Random) -> Any:
    key = chance.choice(list(value))
    rest = {name: one for name, one in value.items() if name != key}
    match chance.randrange(6):
        case 0:
            return rest
        case 1:
            return {**rest, key + "x": value[key]}
        case 2:
            return {**value, key: value[chance.choice(list(value))]}
        case _:
            return {**value, key: _twist(value[key], chance)}


def _twist_list(value: list[Any], chance: Random) -> Any:
    at = chance.randrange(len(value))
    match chance.randrange(6):
        case 0:
            return value[:at] + value[at + 1 :]
        case 1:
            return value[:at] + [value[at]] * chance.choice((2, 3, 300)) + value[at:]
        case 2:
            return value[::-1]
        case _:
            return [*value[:at], _twist(value[at], chance), *value[at + 1 :]]
