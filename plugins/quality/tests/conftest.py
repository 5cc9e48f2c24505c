"""What the tests of this plugin share: events of one symbol, made short, and the stage."""

from __future__ import annotations

import random
from collections import Counter
from decimal import Decimal

import pytest
import tapeloom_quality
from tapeloom.events import Bar, Book, Quote, Ticker, Trade
from tapeloom.plugin import Feed

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND


class Clock:
    def time_ns(self):
        return START

    def monotonic(self):
        return 0.0

    async def sleep(self, seconds):
        raise AssertionError("a stage does not wait")


class Make:
    """Makes events. `at` is in milliseconds after the start."""

    @staticmethod
    def trade(id=1, price="100", size="1", at=0, *, symbol="BTC/USDT", recv=None, **more):
        ts = START + at * 1_000_000
        recv = ts if recv is None else START + recv * 1_000_000
        return Trade("v", symbol, ts, recv, Decimal(price), Decimal(size), "buy", id, **more)

    @staticmethod
    def quote(bid="100", ask="101", at=0, *, sizes=("1", "1"), symbol="BTC/USDT", **more):
        ts = START + at * 1_000_000
        bid_size, ask_size = map(Decimal, sizes)
        return Quote("v", symbol, ts, ts, Decimal(bid), bid_size, Decimal(ask), ask_size, **more)

    @staticmethod
    def book(bids=(("100", "1"),), asks=(("101", "1"),), at=0, *, kind="snapshot", **more):
        ts = START + at * 1_000_000
        return Book("v", "BTC/USDT", ts, ts, kind, list(bids), list(asks), **more)

    @staticmethod
    def bar(prices="100 110 90 105", volume="1", at=0, *, interval="1m", sums="1 1 1", **more):
        ts = START + at * 1_000_000
        ohlc = map(Decimal, prices.split())
        rest = map(Decimal, sums.split())
        return Bar("v", "BTC/USDT", ts, ts, interval, *ohlc, Decimal(volume), *rest, 1, **more)

    @staticmethod
    def ticker(last="100", prices="100 110 90", volume="1", at=0):
        ts = START + at * 1_000_000
        ohl = map(Decimal, prices.split())
        return Ticker("v", "BTC/USDT", ts, ts, Decimal(last), *ohl, Decimal(volume), Decimal(1))


@pytest.fixture
def make():
    return Make


@pytest.fixture
def counters():
    return Counter()


@pytest.fixture
def quality(counters):
    """Builds the stage the way core does, through the hook."""

    def build(**settings):
        feed = Feed(
            "f",
            "v",
            settings=tapeloom_quality.Settings(**settings),
            clock=Clock(),
            random=random.Random(0),
            counters=counters,
        )
        return tapeloom_quality._validate(feed)

    return build
