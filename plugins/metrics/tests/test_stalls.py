"""Which silences count as stalls: those that core has judged, with evidence that something was missed."""

from __future__ import annotations

from decimal import Decimal

from tapeloom import Gap, Trade
from tapeloom.events import GapCause, GapState, Origin
from tapeloom_metrics.stalls import Cadence, SilenceWatch

SECOND = 1_000_000_000
KEY = "acme", "BTC/USD", "trades"
USUAL = {KEY: Cadence(100, 0, 100 * SECOND)}  # one a second


def gap(at: int, cause: GapCause = "stall", state: GapState = "open") -> Gap:
    at *= SECOND
    return Gap("acme", "BTC/USD", at, at, 0, at, cause, None, state, "trades")


def trade(at: int, origin: Origin = "live") -> Trade:
    price = Decimal(1)
    return Trade(*KEY[:2], at * SECOND, at * SECOND, price, price, "buy", 1, KEY[2], origin)


def watching(*reports: Gap) -> SilenceWatch:
    watch = SilenceWatch()
    for report in reports:
        watch.report(report)
    return watch


def is_stalled(watch: SilenceWatch, at: int, cadences: dict[tuple[str, str, str], Cadence]) -> bool:
    return watch.stalled(cadences, at * SECOND)[0] == [KEY]


def test_a_stall_counts_until_the_next_live_event_and_is_new_once() -> None:
    watch = watching(gap(110))

    assert watch.stalled(USUAL, 111 * SECOND) == ([KEY], [KEY])
    assert watch.stalled(USUAL, 112 * SECOND) == ([KEY], [])

    watch.record(KEY, [trade(109), trade(112, "history")])
    assert is_stalled(watch, 113, USUAL)

    watch.record(KEY, [trade(113)])
    assert not is_stalled(watch, 114, USUAL)
    assert KEY not in watch


def test_a_channel_that_is_quiet_by_nature_has_not_stalled() -> None:
    seldom = {KEY: Cadence(5, 0, 100 * SECOND)}

    assert not is_stalled(watching(gap(110)), 111, seldom)
    assert not is_stalled(watching(gap(110)), 111, {})


def test_it_has_stalled_if_the_history_of_the_venue_has_what_did_not_come() -> None:
    watch = watching(gap(110))
    watch.report(gap(110, state="filled"))
    watch.record(KEY, [trade(105, "backfill")])

    assert is_stalled(watch, 111, {})


def test_it_has_not_stalled_if_the_history_of_the_venue_has_nothing_either() -> None:
    assert not is_stalled(watching(gap(110), gap(110, state="filled")), 111, USUAL)


def test_after_a_lost_connection_a_pause_is_a_stall_once_it_is_20_times_the_usual_one() -> None:
    watch = watching(gap(110, "disconnect"))
    slow = {KEY: Cadence(26, 0, 100 * SECOND)}  # one in four seconds

    assert not is_stalled(watch, 169, USUAL)
    assert is_stalled(watch, 171, USUAL)
    assert not is_stalled(watch, 189, slow)
    assert is_stalled(watch, 191, slow)


def test_what_a_consumer_missed_in_its_own_queue_is_no_silence() -> None:
    assert KEY not in watching(gap(110, "overflow", "unrecoverable"))
