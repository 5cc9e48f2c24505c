"""What clients may ask for, in the address and in messages."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tapeloom import Secret
from tapeloom_serve import Settings
from tapeloom_serve.messages import Options, Subscribe
from tapeloom_serve.selection import Selection

SETTINGS = Settings(queue_size=1000)


def test_a_query_selects_by_lists_and_by_repetition():
    query = [("symbol", "BTC/USDT,ETH/USDT"), ("symbol", "SOL/USDT"), ("type", "trade")]

    found = Options.from_query(query, SETTINGS)

    assert found.selection == Selection(
        types=frozenset({"trade"}), symbols=frozenset({"BTC/USDT", "ETH/USDT", "SOL/USDT"})
    )
    assert (found.queue.size, found.queue.policy, found.snapshot) == (1000, "drop_oldest", True)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("size", "0"),
        ("size", "1001"),
        ("size", "²"),
        ("size", "-1"),
        ("size", "1" * 500),
        ("policy", "block"),
        ("format", "xml"),
        ("snapshot", "yes"),
        ("symbols", "BTC/USDT"),
        ("symbol", ",".join(map(str, range(2000)))),
        ("symbol", "x" * 500),
    ],
)
def test_a_wrong_parameter_is_named(key, value):
    with pytest.raises(ValueError, match=key):
        Options.from_query([(key, value)], SETTINGS)


@pytest.mark.parametrize(
    ("key", "is_selected"),
    [
        (("trade", "a", "BTC/USDT", "trades"), True),
        (("trade", "b", "BTC/USDT", "trades"), False),
        (("trade", "a", "ETH/USDT", "trades"), False),
        (("bar", "a", "BTC/USDT", "klines:1m"), True),
        (("bar", "a", "BTC/USDT", "bars"), False),
        (("gap", "a", "", ""), True),
        (("gap", "b", "", ""), False),
    ],
)
def test_a_selection_works_as_the_keys_of_a_sink(key, is_selected):
    selection = Selection.from_message(
        {"venues": ["a"], "symbols": ["BTC/USDT"], "channels": ["trades", "klines"]}
    )

    assert selection.selects(key) is is_selected


def test_a_message_replaces_the_selection():
    text = json.dumps({"op": "subscribe", "id": 7, "types": ["bar"], "snapshot": False})

    assert Subscribe.from_text(text) == Subscribe(Selection(frozenset({"bar"})), 7, False)


@given(
    st.text()
    | st.binary()
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["op", "id", "types", "venues", "snapshot", "x"]), inner
            )
        ),
    ).map(json.dumps)
)
@settings(deadline=None)
def test_any_other_message_is_refused_in_words(text):
    problem = ""
    try:
        Subscribe.from_text(text)
    except ValueError as error:
        problem = str(error)

    assert len(problem) < 400
    assert problem or json.loads(text)["op"] == "subscribe"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"host": "0.0.0.0"}, "needs a token"),
        ({"host": "example.org"}, "needs a token"),
        ({"token": Secret("short")}, "at least 16"),
        ({"token": Secret("with a space in the middle")}, "without spaces"),
        ({"path": "stream"}, "/stream"),
    ],
)
def test_settings_that_would_let_everybody_in_are_refused(settings, words):
    with pytest.raises(ValueError, match=words) as caught:
        Settings(**settings)

    assert "short" not in str(caught.value)
