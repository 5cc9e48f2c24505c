"""Generate corrupted frames from valid ones, to fuzz an adapter."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

__all__ = ["mutants"]


def mutants(frames: Sequence[bytes], chance: Random) -> Iterator[bytes]:
    """Yield mutants of *frames* without end; the same state of *chance* yields the same ones.

    Half of them are corrupted as bytes: truncated, flipped, spliced, repeated. The other half are JSON
    with a field missing, of another type, or with an extreme number. Frames that are not JSON are
    always corrupted as bytes. A few are very large or very deep.
    """
    values = [_parsed(frame) for frame in frames]
    while True:
        index = chance.randrange(len(frames))
        frame, value = frames[index], values[index]
        if chance.random() < _HUGE_SHARE:
            yield _huge(frame, value, chance)
            continue
        if chance.random() < 0.5 and value is not None:
            yield _mutated_json(value, chance)
            continue
        yield _BYTE_MUTATIONS[chance.randrange(len(_BYTE_MUTATIONS))](frame, frames, chance)


def _parsed(frame: bytes) -> Any:
    """Return *frame* as a JSON value, None if it is not JSON."""
    try:
        return json.loads(frame)
    except (ValueError, RecursionError):
        return None


#: The share of mutants that are huge, and their size in bytes.
_HUGE_SHARE, _HUGE_BYTES = 1 / 5000, 500_000


def _huge(frame: bytes, value: Any, chance: Random) -> bytes:
    """Return a mutant of some hundred kB: a long text, a long list, deep nesting, or bytes repeated."""
    match chance.randrange(4):
        case 0:
            start = chance.randrange(len(frame) + 1)
            piece = frame[start : start + chance.randrange(1, 200)] or b"["
            return frame[:start] + piece * (_HUGE_BYTES // len(piece)) + frame[start:]
        case 1:
            return b'{"a":' * (_HUGE_BYTES // 5)
        case 2 if value is not None:
            deep: Any = "1"
            for _ in range(chance.choice((50, 300, 900))):
                deep = [deep] if chance.random() < 0.5 else {"a": deep}
            return _replaced(value, deep, chance)
        case _ if value is not None:
            return _replaced(
                value, chance.choice(("9" * _HUGE_BYTES, [["1", "2"]] * 40_000)), chance
            )
    return b"[" * _HUGE_BYTES


def _replaced(value: Any, part: Any, chance: Random) -> bytes:
    """Return *value* as JSON, with *part* in place of a random part."""

    def replaced(inner: Any) -> Any:
        if isinstance(inner, dict) and inner and chance.random() < 0.8:
            key = chance.choice(list(inner))
            return {**inner, key: replaced(inner[key])}
        if isinstance(inner, list) and inner and chance.random() < 0.8:
            at = chance.randrange(len(inner))
            return [*inner[:at], replaced(inner[at]), *inner[at + 1 :]]
        return part

    try:
        return json.dumps(replaced(value), separators=(",", ":")).encode()
    except RecursionError:
        return b"[" * 5000


# ------------------------------------------------------------------------------------- as bytes

_Mutation = Callable[[bytes, Sequence[bytes], Random], bytes]


def _truncated(frame: bytes, frames: Sequence[bytes], chance: Random) -> bytes:
    return frame[: chance.randrange(len(frame) + 1)]


def _without_start(frame: bytes, frames: Sequence[bytes], chance: Random) -> bytes:
    return frame[chance.randrange(len(frame) + 1) :]


def _flipped(frame: bytes, frames: Sequence[bytes], chance: Random) -> bytes:
    out = bytearray(frame)
    for _ in range(chance.choice((1, 1, 2, 8)) if out else 0):
        out[chance.randrange(len(out))] ^= 1 << chance.randrange(8)
    return bytes(out)


def _overwritten(frame: bytes, frames: Sequence[bytes], chance: Random) -> bytes:
    at = chance.randrange(len(frame) + 1)
    piece = chance.choice(_BYTE_PIECES)
    return frame[:at] + piece + frame[at + chance.choice((0, 1, len(piece))) :]


def _repeated(frame: bytes, frames: Sequence[bytes], chance: Random) -> bytes:
    start = chance.randrange(len(frame) + 1)
    stop = min(len(frame), start + chance.randrange(1, 40))
    return frame[:stop] + frame[start:stop] * chance.choice((1, 2, 50)) + frame[stop:]


def _spliced(frame: bytes, frames: Sequence[bytes], chance: Random) -> bytes:
    other = frames[chance.randrange(len(frames))]
    return frame[: chance.randrange(len(frame) + 1)] + other[chance.randrange(len(other) + 1) :]


_BYTE_MUTATIONS: tuple[_Mutation, ...] = (
    _truncated,
    _without_start,
    _flipped,
    _overwritten,
    _repeated,
    _spliced,
)
_BYTE_PIECES = (
    b"", b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"{", b"}", b"[", b"]", b'"', b",", b":", b"\\u0000",
    b"null", b"NaN", b"-Infinity", b"1e999", b"1E-999999", b"-0", b"0" * 400, b"9" * 400, b"[" * 2000, b'{"a":' * 500,
)  # fmt: skip

# -------------------------------------------------------------------------------------- as JSON

_EXTREME_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 1e308, -1e-308, 10**30, -(10**400), 2**63, "", " ", "NaN", "-1",
    10**15, -(10**15), 253402300800000, 10**4298, -(10**4298), "sNaN", "NaN123", "1E-999999", "1E+999999",
    "0E-999999", "-1E+999999999", "9" * 5000, "1." + "0" * 5000, "9999-12-31T23:59:59.999999999Z",
    "0001-01-01T00:00:00Z", "\x1b]0;title\x07\r\n", "\x9b2J",
    "Infinity", "-Infinity", "1e400", "0x10", "1_0", "٣", "\ud800", "\x00", "x" * 5000, "1" * 400,
    "0." + "0" * 300 + "1", [], {}, [[]], [None], {"": None}, [[["1", "2"]]], ["1"],
)  # fmt: skip


def _mutated_json(value: Any, chance: Random) -> bytes:
    """Return *value* with one or more random mutations, as JSON."""
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        value = _mutate(value, chance)
    try:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=chance.random() < 0.5).encode(
            errors="surrogatepass"
        )
    except RecursionError:
        return b"[" * 5000
    except ValueError:  # an integer of more digits than Python writes
        return b"9" * 5000


def _mutate(value: Any, chance: Random) -> Any:
    """Return *value* with one random part replaced."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        return _mutate_object(value, chance)
    if isinstance(value, list) and value and chance.random() < 0.9:
        return _mutate_list(value, chance)
    if isinstance(value, str) and value and chance.random() < 0.5:
        return _flipped(value.encode(errors="replace"), (), chance).decode(errors="replace")
    if isinstance(value, int | float) and not isinstance(value, bool) and chance.random() < 0.5:
        return value * chance.choice((-1, 0, 1000, 10**9))
    return chance.choice(_EXTREME_VALUES)


def _mutate_object(value: dict[str, Any], chance: Random) -> Any:
    key = chance.choice(list(value))
    rest = {name: field for name, field in value.items() if name != key}
    match chance.randrange(6):
        case 0:
            return rest
        case 1:
            return {**rest, key + "x": value[key]}
        case 2:
            return {**value, key: value[chance.choice(list(value))]}
        case _:
            return {**value, key: _mutate(value[key], chance)}


def _mutate_list(value: list[Any], chance: Random) -> Any:
    at = chance.randrange(len(value))
    match chance.randrange(6):
        case 0:
            return value[:at] + value[at + 1 :]
        case 1:
            return value[:at] + [value[at]] * chance.choice((2, 3, 30)) + value[at:]
        case 2:
            return value[::-1]
        case _:
            return [*value[:at], _mutate(value[at], chance), *value[at + 1 :]]
