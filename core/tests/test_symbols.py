from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tapeloom.errors import SymbolError
from tapeloom.symbols import Kind, Symbol, resolve

PARTS = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=1, max_size=10)
EXPIRY = st.text("0123456789", min_size=6, max_size=6)


@pytest.mark.parametrize(
    ("text", "parts", "kind"),
    [
        ("BTC/USDT", Symbol("BTC", "USDT"), "spot"),
        ("btc/usdt", Symbol("BTC", "USDT"), "spot"),
        ("AAPL/USD", Symbol("AAPL", "USD"), "spot"),
        ("1000PEPE/USDT:USDT", Symbol("1000PEPE", "USDT", "USDT"), "swap"),
        ("BTC/USD:BTC", Symbol("BTC", "USD", "BTC"), "swap"),
        ("BTC/USDT:USDT-261225", Symbol("BTC", "USDT", "USDT", "261225"), "future"),
    ],
)
def test_a_unified_symbol_is_parsed_to_its_parts(text: str, parts: Symbol, kind: Kind) -> None:
    symbol = Symbol.parse(text)

    assert symbol == parts
    assert symbol.kind == kind


@given(
    st.one_of(
        st.builds(Symbol, PARTS, PARTS),
        st.builds(Symbol, PARTS, PARTS, PARTS),
        st.builds(Symbol, PARTS, PARTS, PARTS, EXPIRY),
    )
)
def test_a_symbol_is_equal_after_formatting_and_parsing(symbol: Symbol) -> None:
    assert Symbol.parse(str(symbol)) == symbol


@pytest.mark.parametrize(
    "text",
    [
        "",
        "BTCUSDT",
        "BTC/",
        "/USDT",
        "BTC/USDT:",
        "BTC/USDT-261225",
        "BTC/USDT:USDT-2612",
        "A B/C",
        "A/B/C",
    ],
)
def test_an_invalid_symbol_raises_an_error_with_examples(text: str) -> None:
    with pytest.raises(SymbolError) as caught:
        Symbol.parse(text)

    assert str(caught.value).startswith(f"{text!r} is not a unified symbol. ")
    assert "'BTC/USDT:USDT'" in str(caught.value) or text == "BTC"


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("BTCUSDT", "Write 'BTC/USDT' for spot, 'BTC/USDT:USDT' for a perpetual swap."),
        ("eth-btc", "Write 'ETH/BTC' for spot, 'ETH/BTC:BTC' for a perpetual swap."),
        (
            "AAPL",
            "The currency of its price is missing: write 'AAPL/USD' if that is the US dollar.",
        ),
        (
            "BRK.B",
            "The currency of its price is missing: write 'BRK.B/USD' if that is the US dollar.",
        ),
    ],
)
def test_a_venues_own_name_is_proposed_as_a_unified_symbol(text: str, remedy: str) -> None:
    with pytest.raises(SymbolError) as caught:
        resolve(text)

    assert str(caught.value) == f"{text!r} is not a unified symbol. {remedy}"


@pytest.mark.parametrize("alias", ["BTC-PERP", "btc-perp", "BTC-SWAP", "BTC/USDT:USDT"])
def test_an_alias_of_a_perpetual_swap_is_resolved(alias: str) -> None:
    assert resolve(alias) == "BTC/USDT:USDT"


def test_an_alias_is_settled_in_the_given_stablecoin() -> None:
    assert resolve("BTC-PERP", stablecoin="USDC") == "BTC/USDC:USDC"


@given(st.text(max_size=30))
def test_resolving_arbitrary_text_raises_only_symbol_error(text: str) -> None:
    try:
        symbol = resolve(text)
    except SymbolError:
        return

    assert resolve(symbol) == symbol


@pytest.mark.parametrize(
    "text",
    [
        "../BTC",
        "BTC/..",
        "./USD",
        "BTC/USDT:..",
        "B\\C/USD",
        "B\x1b[2J/USD",
        "..-PERP",
        "\x07-PERP",
    ],
)
def test_a_symbol_cannot_leave_a_folder_or_control_a_terminal(text: str) -> None:
    with pytest.raises(SymbolError):
        resolve(text)
