"""Event classes of plugins: their names, JSON form and identity, in queues and in a stream."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, ClassVar, Literal

import anyio
import attrs
import pytest
import tapeloom
from hypothesis import given, settings
from hypothesis import strategies as st
from tapeloom import Event, FeedSpec, QueueSpec, Registry, Reject, Stack, Trade, decode, encode
from tapeloom._stream.queues import Queue
from tapeloom.events import BY_TYPE, BaseEvent, event_class
from tapeloom.events.base import _registered
from tapeloom.hooks import hookimpl
from tapeloom.plugin import Endpoint
from tapeloom.plugin.bounds import reject_out_of_bounds
from tapeloom_testing import FakeWire, WireEnd

ONE = Decimal(1)
COMMON = {"venue": str, "symbol": str, "ts": int, "recv": int}


@event_class
class Cvd(BaseEvent):
    """Cumulative volume delta: the volume that takers bought less that which they sold."""

    type: ClassVar[str] = "own_cvd"
    is_state = True

    venue: str
    symbol: str
    ts: int
    recv: int
    delta: Decimal
    levels: list[tuple[Decimal, int]] = attrs.Factory(list)
    last: Trade | None = None
    channel: str = "cvd"


TRADE = Trade("acme", "A/B", 1, 2, ONE, Decimal("2.50"), "sell", 7)
CVD = Cvd("acme", "A/B", 1, 2, Decimal("-2.50"), [(ONE, 3)], TRADE)


@pytest.fixture(autouse=True)
def _forget_classes() -> Iterator[None]:
    """Leave no class behind: a store makes a table for each type that there is."""
    before = {**BY_TYPE}
    yield
    for name in {*BY_TYPE} - {*before}:
        del _registered[name]
    _registered.update(before)


def made(name: str, kinds: dict[str, Any], module: str = __name__, **body: Any) -> Any:
    """Return an event class with the common fields and those of *kinds*."""
    fields = {**COMMON, **kinds, "channel": str}
    body = {"type": name, "__annotations__": fields, "__module__": module, **body}
    return event_class(types.new_class("Made", (BaseEvent,), exec_body=lambda ns: ns.update(body)))


# ------------------------------------------------------------------------------------ the definition


@pytest.mark.parametrize(
    "decorator", [event_class, attrs.define, attrs.frozen], ids=["event_class", "define", "frozen"]
)
def test_a_class_is_known_by_its_type_whichever_decorator_of_attrs_makes_it(decorator: Any) -> None:
    @decorator
    class Basis(BaseEvent):
        type = "basis"
        venue: str
        symbol: str
        ts: int
        recv: int
        channel: str = "basis"

    event = Basis("acme", "A/B", 1, 2)

    assert BY_TYPE["basis"] is Basis is type(event)
    assert decode(encode(event)) == event


def test_the_view_of_the_types_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        BY_TYPE["cvd"] = Cvd  # type: ignore[index]


@pytest.mark.parametrize(
    ("name", "got"), [(None, "None"), ("", "''"), ("two words", "'two words'"), (5, "5")]
)
def test_a_type_that_is_no_name_is_an_error_that_names_the_class(name: Any, got: str) -> None:
    with pytest.raises(TypeError, match=rf"{__name__}\.Made: expected a type .*, got {got}\.$"):
        made(name, {})


def test_a_type_that_is_a_field_is_an_error() -> None:
    with pytest.raises(TypeError, match=r"Alert: expected a type of its own, not a field"):

        @event_class
        class Alert(BaseEvent):
            venue: str
            symbol: str
            ts: int
            recv: int
            channel: str = "alerts"
            type: str = "alert"  # type: ignore[misc]  # what is tested


def test_a_subclass_of_an_event_needs_a_type_of_its_own() -> None:
    with pytest.raises(TypeError, match=r"BlockTrade: expected a type of its own"):

        @event_class
        class BlockTrade(Trade):
            pass

    assert BY_TYPE["trade"] is Trade


def test_two_classes_of_one_type_are_an_error_that_names_both() -> None:
    first = made("spread", {}, "plugin_a")
    with pytest.raises(
        TypeError, match=r"plugin_b\.Made: its type 'spread' is that of plugin_a\.Made"
    ):
        made("spread", {}, "plugin_b")
    with pytest.raises(TypeError, match=r"'trade' is that of tapeloom\.events\.market\.Trade"):
        made("trade", {})

    assert BY_TYPE["spread"] is first
    assert BY_TYPE["trade"] is Trade


def test_a_class_that_is_defined_again_replaces_the_former_one() -> None:
    old = made("basis_again", {"basis": int})
    new = made("basis_again", {"basis": int, "rate": int})

    assert BY_TYPE["basis_again"] is new
    assert encode(old("acme", "A/B", 1, 2, 3, "c")).endswith('"basis":3,"channel":"c"}')
    assert decode(encode(new("acme", "A/B", 1, 2, 3, 4, "c"))).rate == 4  # type: ignore[attr-defined]


def test_a_missing_common_field_is_an_error_that_names_it() -> None:
    with pytest.raises(TypeError, match=r"Alert: add the fields recv, channel\."):

        @event_class
        class Alert(BaseEvent):
            type = "alert"
            venue: str
            symbol: str
            ts: int


@pytest.mark.parametrize(
    ("name", "field"),
    [("_a", attrs.field()), ("a", attrs.field(init=False)), ("a", attrs.field(alias="b"))],
)
def test_a_field_that_is_no_argument_of_its_name_is_an_error(name: str, field: Any) -> None:
    with pytest.raises(TypeError, match=rf"make {name} an argument of the same name"):
        made("hidden", {name: int}, **{name: field})


# ------------------------------------------------------------------------------------- the JSON form

texts = st.text(max_size=5)
numbers = st.decimals(allow_nan=False, allow_infinity=False, places=5) | st.sampled_from(
    [Decimal(text) for text in ("NaN", "Infinity", "-Infinity", "-0", "0.00", "1E-60")]
)
#: Kinds of field, and their values.
PLAIN: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (str, texts),
    (int, st.integers()),
    (bool, st.booleans()),
    (float, st.floats()),
    (Decimal, numbers),
    (Literal["buy", "sell"], st.sampled_from(["buy", "sell"])),
    (Literal["x", 7] | None, st.sampled_from(["x", 7, None])),
    (int | str | None, st.integers() | texts | st.none()),
    (float | int | bool, st.floats() | st.integers() | st.booleans()),
    (Decimal | int | None, numbers | st.integers() | st.none()),
    (Literal["open"] | str, st.just("open") | texts),  # noqa: PYI051
    (Trade, st.builds(Trade, texts, texts, st.just(1), st.just(2), numbers, numbers)),
    (Cvd | Trade | None, st.sampled_from([CVD, TRADE, None])),
    (Event, st.sampled_from([CVD, TRADE])),
]


def containers(inner: Any) -> Any:
    """Return kinds that hold other kinds, with their values."""

    def several(kinds: list[tuple[Any, Any]]) -> st.SearchStrategy[Any]:
        (kind, values), *_ = kinds
        return st.sampled_from(
            [
                (list[kind], st.lists(values, max_size=3)),  # type: ignore[valid-type]
                (tuple[kind, ...], st.lists(values, max_size=3).map(tuple)),  # type: ignore[valid-type]
                (tuple[kind, ...] | None, st.none() | st.lists(values, max_size=3).map(tuple)),  # type: ignore[valid-type]
                (
                    tuple[tuple(kind for kind, _ in kinds)],  # type: ignore[misc]
                    st.tuples(*(values for _, values in kinds)),
                ),
            ]
        )

    return st.lists(inner, min_size=1, max_size=3).flatmap(several)


fields = st.recursive(st.sampled_from(PLAIN), containers, max_leaves=4)


@settings(max_examples=300, deadline=None)
@given(st.lists(fields, max_size=4), st.data())
def test_an_event_of_any_class_is_the_same_after_encoding_and_decoding(
    kinds: list[tuple[Any, st.SearchStrategy[Any]]], data: st.DataObject
) -> None:
    cls = made("generated", {f"field{n}": kind for n, (kind, _) in enumerate(kinds)})
    event = cls("acme", "A/B", 1, 2, *(data.draw(values) for _, values in kinds), "x-own")
    line = encode(event)
    back = decode(line)

    assert type(back) is cls
    assert repr(back) == repr(event)  # with every digit and the type of every value; NaN included
    assert encode(back) == line
    json.loads(line, parse_constant=pytest.fail)  # valid JSON has no bare NaN


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.1, "0.1"), (-0.0, "-0.0"), (5e-324, "5e-324"), (1e300, "1e+300"), (7, "7"),
        (float("nan"), '"NaN"'), (float("inf"), '"Infinity"'), (float("-inf"), '"-Infinity"'),
    ],
)  # fmt: skip
def test_a_float_is_exact_and_valid_json(value: float, written: str) -> None:
    cls = made("ratio", {"ratio": float, "past": list[float]})
    event = cls("acme", "A/B", 1, 2, value, [value], "c")
    line = encode(event)

    assert f'"ratio":{written},"past":[{written}]' in line
    assert repr(decode(line)) == repr(event)


def test_the_json_form_follows_the_fields() -> None:
    assert json.loads(encode(CVD)) == {
        "type": "own_cvd",
        "venue": "acme",
        "symbol": "A/B",
        "ts": 1,
        "recv": 2,
        "delta": "-2.50",
        "levels": [["1", 3]],
        "last": json.loads(encode(TRADE)),
        "channel": "cvd",
    }
    assert decode(encode(CVD)) == CVD


def test_a_rejected_event_of_a_plugin_is_kept() -> None:
    reject = Reject("acme", "A/B", 1, 2, "rule", "evidence", CVD, "cvd")

    assert decode(encode(reject)) == reject
    assert decode(encode(attrs.evolve(reject, event=reject))).event == reject  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "kind",
    [
        datetime, object, Any, dict[str, int], bytes, list, tuple, Sequence[int], set[int], complex,
        Literal[b"x"], list[datetime], datetime | None, tuple[int, bytes],
        Decimal | str, float | str, Decimal | float, Decimal | Literal["none"],
        list[int] | tuple[int, ...], tuple[int] | tuple[str] | None,
    ],
    ids=str,
)  # fmt: skip
def test_a_kind_of_field_that_json_cannot_hold_is_an_error_that_names_it(kind: Any) -> None:
    event = made("unfit", {"odd": kind})("acme", "A/B", 1, 2, None, "c")
    with pytest.raises(TypeError, match=r"^Made\.odd: .+\. ?"):
        encode(event)
    with pytest.raises(ValueError, match=r"Made\.odd: "):
        decode('{"type":"unfit","venue":"a","symbol":"","ts":1,"recv":1,"odd":1,"channel":"c"}')


def test_a_kind_of_field_that_is_not_imported_is_an_error_with_the_remedy() -> None:
    event = made("unfit", {"odd": "list[NotImported]"})("acme", "A/B", 1, 2, None, "c")
    with pytest.raises(
        TypeError, match=r"^Made: name 'NotImported' .* Import it outside TYPE_CHECKING\.$"
    ):
        encode(event)


def test_a_class_without_the_decorator_is_an_error_that_says_so() -> None:
    class Mine(Trade):
        pass

    event = Mine("acme", "A/B", 1, 2, ONE, ONE)
    with pytest.raises(TypeError, match=r"Mine is no event class. Write @event_class above it"):
        encode(event)


def test_a_type_that_no_imported_module_defines_is_an_error_that_says_so() -> None:
    with pytest.raises(ValueError, match=r"no event type 'vcd' is known\. Import the module"):
        decode(encode(CVD).replace('"own_cvd"', '"vcd"', 1))


@pytest.mark.parametrize(
    "change",
    [
        {"delta": -2.5}, {"delta": "many"}, {"delta": None}, {"levels": {}}, {"levels": [["1"]]},
        {"levels": [["1", 3, 3]]}, {"levels": [["1", True]]}, {"last": 7}, {"last": {"type": "own_cvd"}},
        {"last": json.loads(encode(CVD))}, {"extra": 1},
    ],
)  # fmt: skip
def test_a_field_that_does_not_fit_its_kind_is_a_value_error(change: dict[str, Any]) -> None:
    line = json.dumps({**json.loads(encode(CVD)), **change})
    with pytest.raises(ValueError, match="expected an event as JSON"):
        decode(line)


# ------------------------------------------------------------------- identity, kind, bounds and queues


def test_the_identity_is_all_that_the_event_says_and_can_be_compared() -> None:
    again = attrs.evolve(CVD, recv=9, last=attrs.evolve(TRADE, recv=9))  # received elsewhere
    others = [
        attrs.evolve(CVD, delta=ONE),
        attrs.evolve(CVD, levels=[]),
        attrs.evolve(CVD, last=attrs.evolve(TRADE, id=8)),
    ]

    assert again.identity == CVD.identity
    assert len({event.identity for event in (CVD, again, *others)}) == 4


def test_whether_it_is_a_state_stands_on_the_class() -> None:
    assert CVD.is_state
    assert made("occurrence", {})("acme", "A/B", 1, 2, "c").is_state is False


def test_an_impossible_time_is_rejected_and_named() -> None:
    good = attrs.evolve(CVD, ts=5)
    early, huge = attrs.evolve(CVD, ts=-1), attrs.evolve(CVD, recv=1 << 70)
    nested = Reject("acme", "A/B", -1, 2, "rule", "evidence", CVD)
    kept, *rejects = reject_out_of_bounds([good, early, huge, nested])

    assert kept is good
    assert [event.evidence.split(";")[0] for event in rejects if isinstance(event, Reject)] == [
        "ts is -1", f"recv is {1 << 70}", "ts is -1",
    ]  # fmt: skip


def test_a_queue_selects_a_plugins_type_and_conflates_it_by_symbol() -> None:
    queue = Queue(QueueSpec(size=3, policy="conflate"), [Cvd])
    for n in range(9):
        pair = [TRADE, attrs.evolve(CVD, delta=Decimal(n)), attrs.evolve(CVD, symbol="C/D", ts=n)]
        queue.put_nowait(pair)
    *gaps, first, second = queue.get_nowait()

    assert {gap.type for gap in gaps} == {"gap"}
    assert (first, second) == (
        attrs.evolve(CVD, delta=Decimal(8)),
        attrs.evolve(CVD, symbol="C/D", ts=8),
    )


# ------------------------------------------------------------------------------------------- a stream


class CvdStage:
    """Follows each trade with its Cvd."""

    @hookimpl
    def aggregate(self, feed: Any) -> Any:
        sums: dict[str, Decimal] = {}

        def stage(events: list[Event]) -> list[Event]:
            out: list[Event] = []
            for event in events:
                out.append(event)
                if type(event) is Trade:
                    delta = event.size if event.side == "buy" else -event.size
                    sums[event.symbol] = total = sums.get(event.symbol, Decimal(0)) + delta
                    out.append(Cvd(feed.venue, event.symbol, event.ts, event.recv, total))
            return out

        return stage


def sending(count: int) -> FakeWire:
    async def answer(end: WireEnd, endpoint: Endpoint) -> None:
        end.push(json.dumps({"ok": json.loads(await end.take())["id"]}))
        for n in range(count):
            end.push(json.dumps({"s": "BTCUSD", "t": n, "p": "1.50", "q": "2", "i": n}))
        await anyio.sleep_forever()

    return FakeWire(answer)


async def test_a_stages_own_event_reaches_the_consumers_of_its_type(registry: Registry) -> None:
    registry.register(CvdStage(), "cvd")
    stack = Stack(feeds=(FeedSpec("acme", ["BTC/USD"], ["trades"], stages=("cvd",)),))
    called: list[Cvd] = []
    received: list[Cvd] = []
    async with tapeloom.open(stack, registry=registry, dial=sending(5).dial, seed=1) as stream:
        stream.on(Cvd)(called.append)
        with anyio.fail_after(10):
            async for event in stream.of(Cvd):
                received.append(event)
                if len(received) == 5:
                    break

    assert [type(event) for event in received] == [Cvd] * 5
    assert {abs(event.delta) for event in received} == {Decimal(n) for n in (2, 4, 6, 8, 10)}
    assert called == received
