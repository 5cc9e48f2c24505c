"""The parts of a connection by themselves: the intake of frames, its deadlines, the venue's replies."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Sequence

import anyio
import pytest
from attrs import evolve
from tapeloom import Event, FeedSpec, Registry, Stack, Status
from tapeloom._compose.composer import compose
from tapeloom._connection.frame_intake import FeedIntake, FrameIntake
from tapeloom._connection.keep_alive import Deadlines
from tapeloom._connection.replies import Replies
from tapeloom._connection.subscriptions import Subscriptions
from tapeloom._runtime.event_loop import DONE
from tapeloom.errors import LoginRefused, SubscriptionRefused
from tapeloom.plugin import Ack, Message, Refusal, Subscription
from tapeloom_testing import VirtualClock

TRADES = Subscription("BTC/USD", "trades")


class Tap:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.reads: list[tuple[int, int, int, int]] = []
        self.not_read: list[tuple[int, bytes]] = []

    def frames(self, connection: int, recv: int, payloads: Sequence[bytes], size: int) -> None:
        self.reads.append((connection, recv, len(payloads), size))

    def unreadable(self, recv: int, frame: bytes, error: str) -> None:
        self.not_read.append((recv, frame))


def trade(n: int) -> bytes:
    return json.dumps({"s": "BTCUSD", "t": n, "p": "1", "q": "2", "i": n}).encode()


def shared_intake(registry: Registry, clock: VirtualClock, tap: Tap | None = None) -> FeedIntake:
    stack = Stack(feeds=(FeedSpec("acme", ("BTC/USD",), ("trades",)),))
    plan = compose(stack, registry, clock, 1).plans[0]
    plan.add_symbols(plan.feed.symbols)
    return FeedIntake(plan, [tap] if tap is not None else [])  # type: ignore[list-item]


# ------------------------------------------------------------------------------------- the intake


def test_frames_with_a_recorded_time_enter_without_a_connection(registry: Registry) -> None:
    """A tape is read as a socket is: counted, tapped, control frames and events given on."""
    tap, control, reads = Tap(), list[bytes](), list[list[Event]]()
    broken = b'{"s": "BTCUSD", "t": "no trade"}'
    shared = shared_intake(registry, VirtualClock(), tap)

    def on_events(events: list[Event]) -> Awaitable[None]:
        reads.append(events)
        return DONE

    def on_control(frame: bytes) -> list[Event]:
        control.append(frame)
        return [Status("acme", "", 0, intake.last_recv, "notice", "in its place")]

    intake = FrameIntake(shared, on_control, on_events)
    intake.connection = 3
    waiting = [
        intake.on_read([trade(1), b'{"ok": 1}', trade(2)], 7),
        intake.on_read([broken], 8),
        intake.on_read([]),
    ]

    kinds = [[type(event).__name__ for event in events] for events in reads]
    assert waiting == [None, None, None]
    assert kinds == [["Trade", "Status", "Trade"], ["Reject"]]
    assert [event.recv for events in reads for event in events] == [7, 7, 7, 8]
    assert control == [b'{"ok": 1}']
    assert tap.not_read == [(8, broken)]
    assert [(connection, recv, count) for connection, recv, count, _ in tap.reads] == [
        (3, 7, 3),
        (3, 8, 1),
    ]
    assert (shared.feed.counters["frames"], intake.reads) == (4, 2)
    assert shared.feed.counters["bytes"] == sum(size for *_, size in tap.reads)


async def test_a_large_read_is_delivered_in_parts_although_cancelled_and_a_full_queue_is_no_silence(
    registry: Registry,
) -> None:
    clock, parts, blocked = VirtualClock(), list[int](), list[bool]()
    shared = shared_intake(registry, clock)
    subscriptions = Subscriptions([TRADES])
    subscriptions.sent(Message("sub", (TRADES,), 1), due=12.0)

    async def consumer_takes_ten_seconds() -> None:
        blocked.append(intake.deadlines.is_blocked)
        await clock.sleep(10.0)

    def on_events(events: list[Event]) -> Awaitable[None]:
        parts.append(len(events))
        return consumer_takes_ten_seconds() if len(parts) == 2 else DONE

    intake = FrameIntake(shared, lambda frame: [], on_events, Deadlines(subscriptions))
    with anyio.fail_after(10):
        async with clock.running():
            began = clock.monotonic()
            with anyio.CancelScope() as scope:
                scope.cancel()
                waiting = intake.on_read([trade(n) for n in range(600)])
                assert waiting is not None
                await waiting

    assert parts == [256, 256, 88]
    assert blocked == [True]
    assert not intake.deadlines.is_blocked
    assert intake.deadlines.last_byte == began + 10.0
    assert subscriptions.overdue(began + 21.9) is None
    assert subscriptions.overdue(began + 22.1) is not None


# ---------------------------------------------------------------------------------- the deadlines


def test_time_in_which_the_event_loop_was_blocked_is_no_silence_of_the_venue() -> None:
    subscriptions = Subscriptions([TRADES])
    subscriptions.sent(Message("sub", (TRADES,), 1), due=10.0)
    deadlines = Deadlines(subscriptions, last_byte=1.0, last_check=1.0)
    in_time, late = deadlines.blocked_seconds(1.0, 2.9), deadlines.blocked_seconds(1.0, 34.0)

    assert (in_time, late) == (0.0, pytest.approx(30.1))
    assert deadlines.failure(61.0, 30.0) is None
    assert deadlines.failure(61.2, 30.0) == "no byte was received for 30 s"
    assert subscriptions.overdue(40.0) is None
    assert subscriptions.overdue(40.2) is not None


@pytest.mark.parametrize("pings", [True, False])
def test_a_read_of_control_frames_answers_a_heartbeat_that_is_a_ping(pings: bool) -> None:
    deadlines = Deadlines(pings=pings, last_byte=9.0)
    deadlines.heartbeat_sent(5.0, 3.0)
    deadlines.heartbeat_sent(6.0, 3.0)
    due = deadlines.heartbeat_due
    deadlines.record_control_frame()

    assert due == 8.0
    expected = None if pings else "the venue does not answer heartbeats"
    assert deadlines.failure(9.0, 30.0) == expected


def test_the_text_of_an_overdue_login_is_not_shown() -> None:
    login = Message('{"secret": "s3cret"}', (), "login", is_login=True)

    def overdue(message: Message) -> str | None:
        subscriptions = Subscriptions([TRADES])
        subscriptions.sent(message, due=10.0)
        return Deadlines(subscriptions).overdue_reply(11.0, 10.0)

    shown, other = overdue(login), overdue(evolve(login, is_login=False))

    assert shown == "no answer within 10 s to the login"
    assert other == f"no answer within 10 s to {login.text}"


# ------------------------------------------------------------------------------------ the replies


def test_a_refusal_without_an_id_is_of_the_login_and_after_it_of_the_oldest_message(
    registry: Registry,
) -> None:
    feed = shared_intake(registry, VirtualClock()).feed
    login = Message("login", (), "login", is_login=True)
    refusal = Refusal("no", oldest_pending=True)

    def replies() -> tuple[Replies, Subscriptions]:
        subscriptions = Subscriptions([TRADES])
        subscriptions.opening = login
        subscriptions.sent(login, due=10.0)
        return Replies(feed, "main#1", subscriptions), subscriptions

    refused = replies()[0].process(refusal, 5)
    later, subscriptions = replies()
    accepted = later.process(Ack("login"), 5)
    subscriptions.sent(Message("sub", (TRADES,), 1), due=20.0)
    last = later.process(refusal, 6)

    assert isinstance(refused.failure, LoginRefused)
    assert (accepted.answers_opening, accepted.live) == (True, None)
    assert last.refused == [TRADES]
    assert isinstance(last.failure, SubscriptionRefused)
    assert [(event.state, event.symbol, event.recv) for event in last.events] == [
        ("refused", "BTC/USD", 6)
    ]
    assert subscriptions.wanted == []
