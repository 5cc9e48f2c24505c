"""Faults on messages: what each does to a connection, when, and that a seed repeats it."""

from __future__ import annotations

import anyio
import pytest
from tapeloom.errors import ConnectionFailed
from tapeloom_chaos import Fault, Settings


async def test_without_faults_everything_passes_as_it_came(heard, numbered) -> None:
    reads = [*numbered(20), [], *numbered(3)]
    one = await heard(reads).listen()

    assert one.batches == reads
    assert one.lost.code == 1000
    assert one.done == []


async def test_a_dropped_message_is_missing_and_nothing_else(heard, numbered) -> None:
    one = await heard(numbered(30), drop=Fault(after=14)).listen()

    assert one.numbers == [n for n in range(1, 31) if n != 15]
    assert one.done == [("drop", 15)]


async def test_a_duplicate_stands_beside_its_original(heard, numbered) -> None:
    one = await heard(numbered(5), duplicate=Fault(after=2)).listen()

    assert one.numbers == [1, 2, 3, 3, 4, 5]


@pytest.mark.parametrize(("size", "after"), [(10, 2), (1, 2), (3, 2)], ids=["in a read", "alone", "at the end"])  # fmt: skip
async def test_a_message_is_overtaken_by_the_next_also_by_one_of_the_next_read(
    heard, numbered, size: int, after: int
) -> None:
    one = await heard(numbered(6, size), reorder=Fault(after=after)).listen()

    assert one.numbers == [1, 2, 4, 3, 5, 6]


async def test_the_last_message_cannot_be_overtaken_and_is_not_lost(heard, numbered) -> None:
    one = await heard(numbered(3), reorder=Fault(after=2)).listen()

    assert one.numbers == [1, 2, 3]
    assert one.lost.code == 1000


async def test_when_every_message_is_to_be_overtaken_none_is_lost(heard, numbered) -> None:
    one = await heard(numbered(9, 2), reorder=1.0).listen()

    assert sorted(one.numbers) == [*range(1, 10)]


async def test_a_corrupt_message_has_one_zero_and_its_neighbours_are_whole(heard, numbered) -> None:
    reads = numbered(5)
    one = await heard(reads, corrupt=Fault(after=2)).listen()
    [batch] = one.batches
    wrong = [place for place, (a, b) in enumerate(zip(batch, reads[0], strict=True)) if a != b]

    assert wrong == [2]
    assert batch[2].count(b"\0") == 1
    assert len(batch[2]) == len(reads[0][2])


async def test_a_split_read_comes_in_two(heard, numbered) -> None:
    one = await heard(numbered(5), split=Fault(after=2)).listen()

    assert [len(batch) for batch in one.batches] == [2, 3]
    assert one.numbers == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(("kind", "seconds"), [("delay", 0.1), ("stall", 30.0)])
async def test_what_is_held_up_comes_later_and_whole(heard, numbered, kind, seconds) -> None:
    one = await heard(numbered(6, 3), **{kind: Fault(after=1)}).listen()

    assert [len(batch) for batch in one.batches] == [1, 2, 3]
    assert one.times == pytest.approx([0, seconds, seconds], abs=0.01)


@pytest.mark.parametrize(("kind", "code"), [("reset", None), ("close", 1006)])
async def test_a_connection_that_is_ended_delivers_what_came_before(
    heard, numbered, kind, code
) -> None:
    one = await heard(numbered(9, 4), **{kind: Fault(after=5)}).listen()

    assert one.numbers == [1, 2, 3, 4, 5]
    assert one.lost.code == code
    assert "chaos" in str(one.lost)
    with pytest.raises(type(one.lost)):
        await one.link.receive()


async def test_a_half_open_connection_neither_brings_nor_takes_nor_ends(heard, numbered) -> None:
    one = heard(numbered(9, 4), half_open=Fault(after=5))
    with anyio.move_on_after(3600) as scope:
        await one.listen()
    await one.link.send("hello")
    await one.link.ping()

    assert scope.cancelled_caught
    assert one.numbers == [1, 2, 3, 4, 5]
    assert one.line.sent == []


async def test_dials_are_refused_and_slow(heard, numbered) -> None:
    one = heard(numbered(1), refuse=Fault(count=1), slow_dial=Fault(count=0, every=2))
    with pytest.raises(ConnectionFailed, match="refused by chaos") as met:
        await one.listen()
    await one.listen()

    assert met.value.retryable
    assert one.times == pytest.approx([5.0], abs=0.01)
    assert [(done.fault, done.connection) for done in one.chaos.injected] == [
        ("refuse", 1),
        ("slow_dial", 2),
    ]


@pytest.mark.parametrize("other", [{}, {"stall": 0.01, "split": 0.3}])
async def test_the_same_seed_does_the_same_however_messages_are_packed(
    heard, numbered, other
) -> None:
    kinds = {"drop": 0.05, "duplicate": 0.05, "corrupt": 0.05, "reorder": 0.05, "seed": 7}
    one = await heard(numbered(500, 1), **kinds, **other).listen()
    two = await heard(numbered(500, 37), **kinds).listen()
    three = await heard(numbered(500, 37), **{**kinds, "seed": 8}).listen()
    flat = [payload for batch in one.batches for payload in batch]

    assert flat == [payload for batch in two.batches for payload in batch]
    assert [done for done in one.done if done[0] not in other] == two.done
    assert two.done != three.done


async def test_everything_is_counted_and_listed(heard, numbered) -> None:
    one = await heard(numbered(1000), drop=0.05, duplicate=Fault(every=100)).listen()
    kinds = [kind for kind, _ in one.done]

    assert one.chaos._counters == {"chaos_drop": kinds.count("drop"), "chaos_duplicate": 10}
    assert 20 < kinds.count("drop") < 90
    assert len(one.numbers) == 1000 - kinds.count("drop") + 10


@pytest.mark.parametrize(
    ("fault", "hit"),
    [
        (Fault(), [1]),
        (Fault(count=0), [1, 2, 3, 4, 5, 6, 7, 8]),
        (Fault(after=5), [6]),
        (Fault(after=1, every=3), [2, 5, 8]),
        (Fault(after=1, every=3, count=2), [2, 5]),
        (Fault(at=3), [4]),
        (Fault(period=3), [1, 4, 7]),
        (Fault(at=2, period=4), [3, 7]),
        (Fault(at=2, until=5, count=0), [3, 4, 5]),
        (1.0, [1, 2, 3, 4, 5, 6, 7, 8]),
        ("0%", []),
    ],
)
async def test_when_a_fault_comes(heard, numbered, fault, hit) -> None:
    # A message a second: each is held up for one, and then seen.
    one = heard(numbered(8, 1), drop=fault)
    receive = one.line.receive

    async def slowly():
        read = await receive()
        await anyio.sleep(0 if b"1" in read[0] else 1.0)
        return read

    one.line.receive = slowly
    await one.listen()

    assert [number for _, number in one.done] == hit


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Settings(drop="often"), "is not a fraction"),
        (lambda: Settings(drop="150%"), "chance must be between 0 and 1"),
        (lambda: Settings(drop=Fault(seconds=3)), "drop has no key 'seconds'"),
        (lambda: Settings(stall=Fault(rate=3)), "stall has no key 'rate'"),
        (lambda: Fault(every=0), "every must be 1 or more, not 0"),
        (lambda: Fault(at=-1), "at must be 0 or more, not -1"),
    ],
)
def test_settings_say_what_is_wrong(make, words) -> None:
    with pytest.raises(ValueError, match=words):
        make()
