"""A model of a venue that loses, repeats, reorders and misnumbers, against the book that is kept.

At every moment a synced book is the venue's book at its id. Where an id was wrong or started anew, that
cannot be known at once: then it holds after a bounded time.
"""

from __future__ import annotations

from decimal import Decimal

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tapeloom.events import Book, Gap

SECOND = 1_000_000_000
STEP = SECOND // 4
#: Within this time of undisturbed deltas a book follows the venue, or says that it does not.
BOUND = 7 * SECOND
#: The ids of each new start lie below those before, further than the deltas of a run reach.
EPOCH = 1_000_000

changes = st.lists(
    st.tuples(
        st.sampled_from(["bids", "asks"]), st.integers(1, 12), st.sampled_from(["0", "1", "2.5"])
    ),
    min_size=1,
    max_size=3,
)
schemes = st.sampled_from(["counted", "linked", "linked without first ids"])


class BookModel(RuleBasedStateMachine):
    """One symbol of the venue; the rules are what the network and the venue can do to it."""

    bench = None  # the fixture

    @initialize(scheme=schemes)
    def start(self, scheme: str) -> None:
        self.scheme = scheme
        self.rig = self.bench(retry="2s", buffer=50)
        self.now = 1_000 * SECOND
        self.epoch = 50
        self.levels: dict[tuple[str, int], str] = {}
        self.end = self.epoch * EPOCH
        self.history: list[tuple[int, dict]] = []
        self.at: dict[int, list[dict]] = {}
        self.trusted = True
        self.held: Book | None = None
        self.last: Book | None = None
        self.remember(self.end)

    # ------------------------------------------------------------------------------------- the venue

    def remember(self, number: int) -> None:
        self.history.append((number, dict(self.levels)))
        self.at.setdefault(number, []).append(dict(self.levels))

    def move(self, changed, raise_id: int = 0) -> Book:
        previous, first, raw = self.end, None, {"bids": {}, "asks": {}}
        for side, ticks, size in changed:
            self.end += 1 if self.scheme == "counted" else 3
            first = first or self.end
            price = ticks if side == "bids" else ticks + 20
            self.levels.pop((side, price), None)
            if Decimal(size):
                self.levels[side, price] = size
            raw[side][str(price)] = size
            self.remember(self.end)
        if raise_id:
            self.at.setdefault(self.end + raise_id, []).append(dict(self.levels))
        self.now += STEP
        self.last = Book(
            "acme", "A/B", self.now - SECOND // 20, self.now, "delta",
            [*raw["bids"].items()], [*raw["asks"].items()],
            None if self.scheme == "linked without first ids" else first,
            self.end + raise_id,
            None if self.scheme == "counted" else previous,
        )  # fmt: skip
        return self.last

    def picture(self, ago: int, origin: str, raise_id: int = 0) -> Book:
        number, levels = self.history[-1 - min(ago, len(self.history) - 1)]
        sides = {
            wanted: [(str(price), size) for (side, price), size in levels.items() if side == wanted]
            for wanted in ("bids", "asks")
        }
        if raise_id:
            self.at.setdefault(number + raise_id, []).append(levels)
        return Book(
            "acme", "A/B", self.now, self.now, "snapshot", sides["bids"], sides["asks"],
            None, number + raise_id, origin=origin,
        )  # fmt: skip

    # ------------------------------------------------------------------------------ what can happen

    @rule(changed=changes)
    def a_delta_arrives(self, changed) -> None:
        self.rig.send(self.move(changed))

    @rule(changed=changes)
    def a_delta_is_lost(self, changed) -> None:
        self.move(changed)

    @rule(changed=changes)
    def a_delta_is_delayed(self, changed) -> None:
        self.held = self.move(changed)

    @precondition(lambda self: getattr(self, "held", None) is not None)
    @rule()
    def the_delayed_delta_arrives(self) -> None:
        self.rig.send(self.held)
        self.held = None

    @precondition(lambda self: getattr(self, "last", None) is not None)
    @rule()
    def the_last_delta_is_repeated(self) -> None:
        self.rig.send(self.last)

    @rule(changed=changes, raise_id=st.sampled_from([1000, 10**12]))
    def a_delta_has_a_huge_id(self, changed, raise_id: int) -> None:
        self.trusted = False
        self.rig.send(self.move(changed, raise_id))

    @precondition(lambda self: getattr(self, "epoch", 0) > 1)
    @rule()
    def the_ids_go_back(self) -> None:
        self.trusted = False
        self.epoch -= 1
        self.end = self.epoch * EPOCH
        self.remember(self.end)

    @rule(ago=st.sampled_from([0, 0, 1, 5, 40]))
    def a_snapshot_is_answered(self, ago: int) -> None:
        self.rig.send(self.picture(ago, "history"))

    @rule(ago=st.sampled_from([0, 0, 2, 30]))
    def a_snapshot_comes_in_the_stream(self, ago: int) -> None:
        self.rig.send(self.picture(ago, "live"))

    @rule(origin=st.sampled_from(["history", "live"]))
    def a_snapshot_has_a_huge_id(self, origin: str) -> None:
        self.trusted = False
        self.rig.send(self.picture(0, origin, 10**12))

    @rule(changed=changes)
    def the_connection_is_lost(self, changed) -> None:
        self.move(changed)
        self.held = None
        self.rig.send(
            Gap("acme", "A/B", self.now, self.now, 0, self.now, "disconnect", channel="book")
        )

    @rule(seconds=st.sampled_from([1, 3, 20]))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds * SECOND
        self.rig.stage.tick(self.now)

    # ------------------------------------------------------------------------------- what must hold

    def kept(self) -> dict[tuple[str, int], Decimal]:
        book = self.rig.book()
        sides = {"bids": book.bids, "asks": book.asks}
        return {
            (side, int(price)): size for side, levels in sides.items() for price, size in levels
        }

    def is_at(self, levels: dict) -> bool:
        return self.kept() == {level: Decimal(size) for level, size in levels.items()}

    @invariant()
    def a_synced_book_is_the_venues_at_its_id(self) -> None:
        if not getattr(self, "rig", None) or not self.rig.stage.books:
            return
        book = self.rig.book()
        if not book.synced:
            assert len(book.bids) == len(book.asks) == 0
        elif self.trusted:
            assert any(map(self.is_at, self.at[book.sequence]))

    @rule(changed=changes)
    def undisturbed_the_book_follows_or_says_that_it_does_not(self, changed) -> None:
        self.held = None
        end = self.now + BOUND
        while self.now < end:
            self.rig.send(self.move(changed))
            self.rig.stage.tick(self.now)
        if self.rig.book().synced:
            assert self.rig.book().sequence == self.end
            assert self.is_at(self.levels)
        self.trusted = True

    @rule(changed=changes)
    def with_answers_the_book_is_rebuilt(self, changed) -> None:
        self.undisturbed_the_book_follows_or_says_that_it_does_not(changed)
        for _ in range(3):
            if self.rig.book().synced:
                break
            self.now = max(self.now, self.rig.stage.due)
            self.rig.stage.tick(self.now)
            self.rig.send(self.move(changed), self.picture(0, "history"), self.move(changed))

        assert self.rig.book().synced
        assert self.is_at(self.levels)


def test_a_book_follows_the_venue_or_says_within_seconds_that_it_does_not(bench):
    class Model(BookModel):
        pass

    Model.bench = bench
    machine = Model.TestCase
    machine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
    machine().runTest()
