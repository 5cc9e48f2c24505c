from __future__ import annotations

import copy
import pickle
import tomllib
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tapeloom._config import (
    FeedSpec,
    Network,
    QueueSpec,
    Secret,
    SinkSpec,
    Stack,
    StageSpec,
    parse,
    read,
    to_toml,
)
from tapeloom._config.places import Places, child
from tapeloom.errors import ConfigError, Mistake

if TYPE_CHECKING:
    from pathlib import Path

FEED = """\
[[feed]]
venue = "acme"
symbols = ["BTC/USDT"]
channels = ["trades"]
"""

WHOLE = """\
backend = "trio"

[[feed]]
name     = "majors"
venue    = "acme"
market   = "spot"
symbols  = ["BTC/USDT", "eth-perp"]
channels = ["trades", "book:10", "klines:1m", "x-auctions"]
stages   = ["quality", "bars", "bar-quality"]   # in this order

[[feed]]
venue    = "acme"
symbols  = "SOL/USDT"
channels = "trades"

[stage.bars]
every = ["1s", "1m"]

[stage.bar-quality]
use = "quality"
max_jump = "10%"

[venue.acme]
testnet = true

[[sink]]
use   = "parquet"
types = ["bar", "trade"]
queue = { size = 5, policy = "drop_oldest" }
path  = "out"

[queue]
size = 500

[network]
proxy = "http://127.0.0.1:3128"
"""


def wrong(document: str) -> list[str]:
    """Return the mistakes reported for a stack, without the file name."""
    with pytest.raises(ConfigError) as caught:
        parse(document, "s.toml").stack_or_raise()
    lines = str(caught.value).splitlines()
    assert all(line.startswith("s.toml: ") for line in lines)
    return [line.removeprefix("s.toml: ") for line in lines]


# ------------------------------------------------------------------------------------ what is right


def test_whole_stack_is_read() -> None:
    stack = parse(WHOLE, "s.toml").stack_or_raise()

    assert stack.backend == "trio"
    assert stack.source == "s.toml"
    assert stack.feeds == (
        FeedSpec(
            venue="acme",
            symbols=("BTC/USDT", "ETH/USDT:USDT"),
            channels=("trades", "book:10", "klines:1m", "x-auctions"),
            name="majors",
            market="spot",
            stages=("quality", "bars", "bar-quality"),
        ),
        FeedSpec("acme", ("SOL/USDT",), ("trades",), name="acme"),
    )
    assert stack.stages == {
        "quality": StageSpec("quality", "quality", {}),
        "bars": StageSpec("bars", "bars", {"every": ["1s", "1m"]}),
        "bar-quality": StageSpec("bar-quality", "quality", {"max_jump": "10%"}),
    }
    assert stack.venues == {"acme": {"testnet": True}}
    assert stack.sinks == (
        SinkSpec(
            "parquet", "parquet", ("bar", "trade"), QueueSpec(5, "drop_oldest"), {"path": "out"}
        ),
    )
    assert stack.queue == QueueSpec(500, "block")
    assert stack.network == Network(proxy="http://127.0.0.1:3128")


def test_defaults_complete_a_minimal_stack() -> None:
    stack = parse(FEED).stack_or_raise()

    assert stack == Stack(feeds=[FeedSpec("acme", "BTC/USDT", "trades")])
    assert stack.feeds[0].name == "acme"
    assert stack.queue == QueueSpec(10_000, "block")
    assert stack.venues == {"acme": {}}


def test_code_and_file_give_the_same_stack() -> None:
    code = Stack(
        feeds=[FeedSpec("acme", ["BTC-PERP"], ["trades"], stages="bars")],
        stages={"bars": {"use": "ohlc", "every": "1m"}},
    )
    file = parse(
        '[[feed]]\nvenue = "acme"\nsymbols = ["BTC/USDT:USDT"]\nchannels = ["trades"]\n'
        'stages = ["bars"]\n[stage.bars]\nuse = "ohlc"\nevery = "1m"'
    ).stack_or_raise()

    assert code == file


def test_tables_made_by_code_are_read_like_a_file() -> None:
    assert parse(tomllib.loads(WHOLE)).stack_or_raise() == attrs.evolve(
        parse(WHOLE).stack_or_raise(), source="stack"
    )


def test_feed_without_a_name_gets_a_unique_name_that_later_feeds_do_not_change() -> None:
    def feed(name: str = "", market: str = "") -> FeedSpec:
        return FeedSpec("acme", "BTC/USDT", "trades", name=name, market=market)

    feeds = [feed(market="spot"), feed(market="swap"), feed(market="swap"), feed(), feed("acme-3")]
    names = [feed.name for feed in Stack(feeds).feeds]

    assert names == ["acme", "acme-swap", "acme-2", "acme-4", "acme-3"]
    assert [feed.name for feed in Stack(feeds[:2]).feeds] == names[:2]


def test_sinks_of_one_kind_get_numbered_names() -> None:
    stack = Stack(sinks=[SinkSpec("redis"), SinkSpec("redis"), SinkSpec("redis", "far")])

    assert [sink.name for sink in stack.sinks] == ["redis", "redis-2", "far"]


# --------------------------------------------------------------------------- twenty kinds of mistake

GOLDEN: dict[str, tuple[str, list[str]]] = {
    "empty file": ("", ["there is no [[feed]]. Add one with a venue, symbols and channels."]),
    "unknown table": (
        f"{FEED}[queu]\nsize = 1",
        ["line 5: queu: unknown key. Did you mean 'queue'?"],
    ),
    "unknown table like none": (
        f"{FEED}[zzz]",
        [
            "line 5: zzz: unknown key. Known: backend, cluster, feed, flight, network, process, queue, sink, stage, venue"
        ],
    ),
    "stage at the top": (
        f'{FEED}stages = ["bars"]\n[bars]\nevery = "1m"',
        ["line 6: bars: unknown key. Write [stage.bars]"],
    ),
    "venue at the top": (
        f"{FEED}[acme]\ntestnet = true",
        ["line 5: acme: unknown key. Write [venue.acme]"],
    ),
    "single brackets": (
        FEED.replace("[[feed]]", "[feed]"),
        ["line 1: feed: expected [[feed]] in double brackets, got a table"],
    ),
    "double brackets": (
        f'{FEED}stages = ["bars"]\n[[stage.bars]]\nevery = "1m"',
        ["line 6: stage.bars: expected a table [stage.<name>], got an array"],
    ),
    "setting of no stage": (
        f'{FEED}stages = ["bars"]\n[stage]\nbars = "1m"',
        ["line 7: stage.bars: expected a table [stage.<name>], got the string '1m'"],
    ),
    "misspelt key": (
        FEED.replace("symbols", "symbol"),
        ["line 3: feed[0].symbol: unknown key. Did you mean 'symbols'?"],
    ),
    "misspelt key that names stages": (
        f'{FEED}stage = ["bars"]\n[stage.bars]',
        ["line 5: feed[0].stage: unknown key. Did you mean 'stages'?"],
    ),
    "key like none": (
        f"{FEED}zzz = 1",
        [
            "line 5: feed[0].zzz: unknown key. Known: channels, market, max_attempts, max_batch_delay, name, stages, symbols, venue"
        ],
    ),
    "missing key": (
        FEED.replace('venue = "acme"\n', ""),
        ["line 1: feed[0]: the key 'venue' is missing; expected a string"],
    ),
    "empty venue": (FEED.replace("acme", ""), ["line 2: feed[0].venue: expected a name, got ''"]),
    "number for a text": (
        FEED.replace('"acme"', "5"),
        ["line 2: feed[0].venue: expected a string, got the number 5"],
    ),
    "number for an array": (
        FEED.replace('["BTC/USDT"]', "5"),
        ["line 3: feed[0].symbols: expected a string or an array of strings, got the number 5"],
    ),
    "number in an array": (
        FEED.replace('["BTC/USDT"]', '["BTC/USDT", 5, ""]'),
        [
            "line 3: feed[0].symbols[1]: expected a string, got the number 5",
            "line 3: feed[0].symbols[2]: expected a string, got an empty one",
        ],
    ),
    "native symbol": (
        FEED.replace("BTC/USDT", "BTCUSDT"),
        [
            (
                "line 3: feed[0].symbols[0]: 'BTCUSDT' is not a unified symbol."
                " Write 'BTC/USDT' for spot, 'BTC/USDT:USDT' for a perpetual swap."
            )
        ],
    ),
    "symbol twice": (
        FEED.replace('["BTC/USDT"]', '["BTC/USDT:USDT", "BTC-PERP"]'),
        ["line 3: feed[0].symbols[1]: 'BTC/USDT:USDT' is listed twice. Delete one."],
    ),
    "no symbol": (
        FEED.replace('["BTC/USDT"]', "[]"),
        ["line 3: feed[0].symbols: expected at least one symbol, got none"],
    ),
    "no channel": (
        FEED.replace('["trades"]', "[]"),
        ["line 4: feed[0].channels: expected at least one channel, got none"],
    ),
    "misspelt channel": (
        FEED.replace('["trades"]', '["trade", "kline:5m"]'),
        [
            "line 4: feed[0].channels[0]: 'trade' is not a channel. Did you mean 'trades'?",
            "line 4: feed[0].channels[1]: 'kline:5m' is not a channel. Did you mean 'klines:5m'?",
        ],
    ),
    "channel of one venue without its prefix": (
        FEED.replace('"trades"', '"liquidations"'),
        [
            (
                "line 4: feed[0].channels[0]: 'liquidations' is not a channel."
                " Known: trades, agg_trades, quotes, book, klines, ticker;"
                " channels of one venue begin with 'x-'"
            )
        ],
    ),
    "channel with an empty parameter": (
        FEED.replace("trades", "klines:"),
        [
            (
                "line 4: feed[0].channels[0]: 'klines:' ends with a colon."
                " Write the parameter after it, as in 'klines:1m'."
            )
        ],
    ),
    "stage twice": (
        f'{FEED}stages = ["bars", "bars"]',
        ["line 5: feed[0].stages[1]: 'bars' is listed twice. Delete one."],
    ),
    "table of a misspelt stage": (
        f'{FEED}stages = ["quality"]\n[stage.qualty]',
        ["line 6: stage.qualty: no feed names this stage. Did you mean 'quality'?"],
    ),
    "table of an unused stage": (
        f"{FEED}[stage.bars]",
        [
            (
                "line 5: stage.bars: no feed names this stage."
                " Name it in the stages of a feed, or delete the table."
            )
        ],
    ),
    "table of a misspelt venue": (
        f"{FEED}[venue.acne]",
        ["line 5: venue.acne: no feed names this venue. Did you mean 'acme'?"],
    ),
    "use that is no text": (
        f'{FEED}stages = ["bars"]\n[stage.bars]\nuse = 1',
        ["line 7: stage.bars.use: expected a string, got the number 1"],
    ),
    "name of a feed twice": (
        f'{FEED}name = "a"\n{FEED}name = "a"',
        ["line 10: feed[1].name: 'a' is already the name of feed[0]. Choose another."],
    ),
    "name of a feed that leaves a folder": (
        f'{FEED}name = "../a"',
        [
            (
                "line 5: feed[0].name: expected a name of printable characters without / and \\,"
                " and no dot at its start, got '../a'"
            )
        ],
    ),
    "unknown backend": (
        f'backend = "trioo"\n{FEED}',
        [
            (
                "line 1: backend: expected 'asyncio' or 'trio', got the string 'trioo'."
                " Did you mean 'trio'?"
            )
        ],
    ),
    "queue of nothing": (
        f"{FEED}[queue]\nsize = 0",
        ["line 6: queue.size: expected a whole number from 1 on, got 0"],
    ),
    "text for a number": (
        f'{FEED}[queue]\nsize = "10"',
        ["line 6: queue.size: expected a whole number, got the string '10'"],
    ),
    "true for a number": (
        f"{FEED}[queue]\nsize = true",
        ["line 6: queue.size: expected a whole number, got true"],
    ),
    "unknown policy": (
        f'{FEED}[queue]\npolicy = "drop"',
        [
            (
                "line 6: queue.policy: expected one of 'block', 'drop_oldest', 'conflate', 'error',"
                " got the string 'drop'"
            )
        ],
    ),
    "sink without a plugin": (
        f'{FEED}[[sink]]\ntypes = ["bar"]',
        ["line 5: sink[0]: the key 'use' is missing; expected a string"],
    ),
    "type of event that is no string": (
        f'{FEED}[[sink]]\nuse = "redis"\ntypes = ["bar", 5, "bar"]',
        [
            "line 7: sink[0].types[1]: expected a string, got the number 5",
            "line 7: sink[0].types[2]: 'bar' is listed twice. Delete one.",
        ],
    ),
    "mistake in an inline table": (
        f'{FEED}[[sink]]\nuse = "redis"\nqueue = {{ sise = 5 }}',
        ["line 7: sink[0].queue.sise: unknown key. Did you mean 'size'?"],
    ),
    "proxy without a scheme": (
        f'{FEED}[network]\nproxy = "user:password@proxy"',
        ["line 6: network.proxy: expected an address such as 'http://127.0.0.1:3128'"],
    ),
    "certificates that are not there": (
        f'{FEED}[network]\nca = "no/such.pem"',
        ["line 6: network.ca: there is no file 'no/such.pem'. Give a PEM file."],
    ),
    "no closing quote": (
        '[[feed]]\nvenue = "acme\n',
        ["line 2, column 14: not valid TOML: illegal character '\\n'"],
    ),
    "text without quotes": (
        "[[feed]]\nvenue = acme\n",
        [
            (
                "line 2, column 9: not valid TOML: invalid value."
                " Put strings in quotes; write true and false in lower case."
            )
        ],
    ),
    "key twice": (
        "[queue]\nsize = 1\nsize = 2\n",
        [
            "line 3, column 9: not valid TOML: cannot overwrite a value. The same key is given twice."
        ],
    ),
    "file that ends too early": (
        'backend = "trio"\n[[feed]]\nsymbols = ["BTC/USDT"\n',
        ["line 3: not valid TOML: unclosed array. A closing ] is missing."],
    ),
}


@pytest.mark.parametrize("kind", GOLDEN)
def test_mistake_is_reported_with_place_and_remedy(kind: str) -> None:
    document, messages = GOLDEN[kind]

    assert wrong(document) == messages


def test_at_least_twenty_kinds_of_mistake_are_tested() -> None:
    assert len(GOLDEN) >= 20


def test_all_mistakes_are_reported_at_once_in_file_order() -> None:
    document = """\
    # a stack with many mistakes
    backend = "Trio"
    [[feed]]
    venue = "acme"
    symbols = [
      "BTC/USDT",  # [not a table]
      "BTCUSDT",
    ]
    channels = ["trade"]
    stages = ["bars"]

    [[feed]]
    venue = 5
    symbls = ["ETH/USDT"]
    channels = ["book"]

    [[sink]]
    use = "redis"
    queue = { policy = "blok" }
    [queue]
    size = 1.5
    """

    assert wrong(dedent(document)) == [
        "line 2: backend: expected 'asyncio' or 'trio', got the string 'Trio'. Did you mean 'trio'?",
        (
            "line 7: feed[0].symbols[1]: 'BTCUSDT' is not a unified symbol."
            " Write 'BTC/USDT' for spot, 'BTC/USDT:USDT' for a perpetual swap."
        ),
        "line 9: feed[0].channels[0]: 'trade' is not a channel. Did you mean 'trades'?",
        "line 13: feed[1].venue: expected a string, got the number 5",
        "line 14: feed[1].symbls: unknown key. Did you mean 'symbols'?",
        (
            "line 19: sink[0].queue.policy: expected one of 'block', 'drop_oldest', 'conflate', 'error',"
            " got the string 'blok'. Did you mean 'block'?"
        ),
        "line 21: queue.size: expected a whole number, got the number 1.5",
    ]


def test_mistakes_of_a_plugin_are_sorted_among_those_of_the_stack() -> None:
    draft = parse(f'{FEED}stages = ["bars"]\n[stage.bars]\nevery = 5\n[queue]\nsize = 0', "s.toml")

    draft.mistakes.append(Mistake("stage.bars.every", "expected a duration"))

    with pytest.raises(ConfigError) as caught:
        draft.stack_or_raise()
    assert str(caught.value).splitlines() == [
        "s.toml: line 7: stage.bars.every: expected a duration",
        "s.toml: line 9: queue.size: expected a whole number from 1 on, got 0",
    ]


def test_draft_keeps_the_valid_parts() -> None:
    document = FEED.replace('["BTC/USDT"]', '["BTCUSDT", "ETH/USDT"]') + 'stages = ["bars"]\n'
    draft = parse(f"{document}[stage.bars]\nevery = 5")

    assert draft.stack.feeds[0].symbols == ("ETH/USDT",)
    assert draft.stack.stages["bars"].table == {"every": 5}
    assert [mistake.place for mistake in draft.mistakes] == ["feed[0].symbols[0]"]


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        ('spool = "lots"', "sink[0].spool"),
        ('types = ["bar", 5]', "sink[0].types[1]"),
        ('name = "a/b"', "sink[0].name"),
        ("queue = { size = 0 }", "sink[0].queue.size"),
    ],
)
def test_a_sink_with_a_mistake_in_a_key_of_core_keeps_the_settings_of_its_plugin(
    wrong: str, place: str
) -> None:
    draft = parse(f'{FEED}[[sink]]\nuse = "parquet"\n{wrong}\npth = "data"')
    (sink,) = draft.stack.sinks

    assert [mistake.place for mistake in draft.mistakes] == [place]
    assert (sink.use, sink.table) == ("parquet", {"pth": "data"})
    assert sink.types == (("bar",) if "types" in wrong else ())


def test_error_of_a_stack_reports_each_mistake_once() -> None:
    stack = parse(FEED, "s.toml").stack_or_raise()
    error = stack.error([Mistake("feed[0].symbols[0]", "not listed"), *[Mistake("", "x")] * 2])

    assert str(error) == "s.toml: line 3: feed[0].symbols[0]: not listed\ns.toml: x"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FeedSpec("acme", ["BTCUSDT"], "trades"), "symbols[0]: 'BTCUSDT' is not a unified"),
        (lambda: FeedSpec("acme", "BTC/USDT", "trade"), "channels[0]: 'trade' is not a channel."),
        (lambda: FeedSpec("", "BTC/USDT", "trades"), "venue: expected a name, got ''"),
        (lambda: QueueSpec(0), "size: expected a whole number from 1 on, got 0"),
        (lambda: QueueSpec(1, "blok"), "policy: expected one of 'block'"),  # type: ignore[arg-type]
        (
            lambda: SinkSpec("redis", types=["bar", "bar"]),
            "types[1]: 'bar' is listed twice. Delete",
        ),
        (lambda: Network("proxy"), "proxy: expected an address such as"),
        (
            lambda: Stack(sinks=[SinkSpec("a", "x"), SinkSpec("b", "x")]),
            "sink[1].name: 'x' is already the",
        ),
        (lambda: Stack(backend="uvloop"), "backend: expected one of"),  # type: ignore[arg-type]
    ],
    ids=["symbol", "channel", "venue", "size", "policy", "type", "proxy", "name", "backend"],
)
def test_classes_report_invalid_values_given_by_code(make: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()

    assert str(caught.value).startswith(f"stack: {message}")


# ---------------------------------------------------------------------------------------- the file


def test_missing_file_is_reported_with_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "stack.toml").write_text(FEED)
    missing = tmp_path / "stak.toml"

    with pytest.raises(ConfigError) as caught:
        read(missing)

    assert str(caught.value) == f"{missing}: no such file. Did you mean 'stack.toml'?"


def test_folder_is_not_accepted_as_a_stack(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path)

    assert str(caught.value) == (
        f"{tmp_path}: this is a folder. Give the path of the stack file in it."
    )


def test_byte_that_is_not_utf8_is_reported_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "stack.toml"
    path.write_bytes(b'[[feed]]\nvenue = "caf\xe9"\n')

    with pytest.raises(ConfigError) as caught:
        read(path)

    assert str(caught.value) == f"{path}: line 2: byte 0xe9 is not UTF-8. Save the file as UTF-8."


def test_byte_order_mark_and_windows_line_ends_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "stack.toml"
    path.write_bytes(
        b"\xef\xbb\xbf" + (FEED + "[queue]\nsize = 0\n").replace("\n", "\r\n").encode()
    )

    with pytest.raises(ConfigError) as caught:
        read(path).stack_or_raise()

    assert str(caught.value) == (
        f"{path}: line 6: queue.size: expected a whole number from 1 on, got 0"
    )


def test_certificate_path_is_relative_to_the_stack_file(tmp_path: Path) -> None:
    (tmp_path / "roots.pem").write_text("x")
    (tmp_path / "stack.toml").write_text(f'{FEED}[network]\nca = "roots.pem"')

    stack = read(tmp_path / "stack.toml").stack_or_raise()

    assert stack.network.ca == str(tmp_path / "roots.pem")


def test_proxy_with_a_password_is_read_from_a_secret_and_masked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PROXY", "http://me:hunter2@proxy.example:3128")

    stack = parse(f'{FEED}[network]\nproxy = {{ env = "PROXY" }}').stack_or_raise()

    assert stack.network.proxy == "http://me:hunter2@proxy.example:3128"
    assert "hunter2" not in repr(stack) + to_toml(stack)


@pytest.mark.thorough
@given(st.text(max_size=200))
@example("[[feed]]\n[feed]")
@example("a.b = 1\n[a]")
@example("x = " + "[" * 3000)
def test_any_text_without_a_feed_raises_config_error(text: str) -> None:
    with pytest.raises(ConfigError):
        parse(text).stack_or_raise()


# -------------------------------------------------------------------------------- lines in the file

KEYS = st.text("ab-_ .\"'é#[", min_size=1, max_size=4)
VALUES = st.recursive(
    st.one_of(st.integers(0, 9), st.booleans(), st.text("ab\"'\\\n#]},", max_size=6)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=6,
)


def toml(value: object) -> str:
    if isinstance(value, dict):
        return (
            "{" + ", ".join(f"{child('', key)} = {toml(item)}" for key, item in value.items()) + "}"
        )
    if isinstance(value, list):
        return "[ # comment ]\n" + "".join(f" {toml(item)},\n" for item in value) + "]"
    if isinstance(value, str) and "'" not in value and "\n" in value:
        return f"'''\n{value}'''"
    return (
        "true"
        if value is True
        else "false"
        if value is False
        else child("", f" {value}")
        if isinstance(value, str)
        else str(value)
    )


def leaves(value: object, place: str) -> list[str]:
    if isinstance(value, dict):
        inside = [leaves(item, child(place, key)) for key, item in value.items()]
    elif isinstance(value, list):
        inside = [leaves(item, child(place, index)) for index, item in enumerate(value)]
    else:
        return [place]
    return [place, *(leaf for places in inside for leaf in places)]


@given(st.lists(st.dictionaries(KEYS, VALUES, min_size=1, max_size=3), min_size=1, max_size=3))
def test_line_of_every_key_and_item_is_found(tables: list[dict[str, Any]]) -> None:
    lines = ["# [[t]]"]
    starts = []
    for table in tables:
        lines.append("[[t]]")
        starts.append(len(lines))
        for key, value in table.items():
            starts.append(len(lines) + 1)
            lines += f"{child('', key)} = {toml(value)}".split("\n")
    text = "\n".join(lines)
    assert len(tomllib.loads(text)["t"]) == len(tables)
    places = Places(text)

    expected = iter(starts)
    for index, table in enumerate(tables):
        assert places.line(f"t[{index}]") == next(expected)
        for key, value in table.items():
            start = next(expected)
            found = [places.line(place) for place in leaves(value, child(f"t[{index}]", key))]
            assert found[0] == start
            assert found == sorted(found)
            assert found[-1] < start + text.count("\n") + 1
            known = places._found
            assert set(leaves(value, child(f"t[{index}]", key))) <= set(known)


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("a", 1),
        ("a.b", 1),
        ("a.b.c", 1),
        ("t[0]", 2),
        ("t[0].u.v", 4),
        ("t[1].u", 6),
        ("t[1].u.v", 7),
        ('t[1].u."x.y"', 8),
        ("t[1].u.text", 9),
        ("t[1].u.after", 12),
        ("t[1].u.when", 13),
        ("t[1].u.missing[3]", 6),
        ("nowhere", 0),
        ("", 0),
    ],
)
def test_line_is_found_under_dotted_and_repeated_headers(place: str, line: int) -> None:
    text = dedent('''\
        a.b.c = { d = [1, 2] }
        [[t]]
        [t.u]
        v = 1
        [[t]]
        [t.u]  # "comment
        v = 2
        "x.y" = 3
        text = """
        after = 0
        [t]"""
        after = 1
        when = 1979-05-27 07:32:00
        ''')

    assert tomllib.loads(text)
    assert Places(text).line(place) == line


# ----------------------------------------------------------------------------------------- secrets


@attrs.frozen
class Keyed:
    key: Secret


def test_secret_is_never_shown() -> None:
    secret = Secret("hunter2", {"env": "KEY"})

    settings = Keyed(secret)
    shows = [repr(secret), str(secret), f"{secret}", f"{secret!r:>9}", "%s" % secret]  # noqa: UP031
    shows += [repr(settings), repr(attrs.asdict(settings)), repr(copy.deepcopy(settings))]

    assert not [text for text in shows if "hunter2" in text]
    assert secret.reveal() == "hunter2"
    assert attrs.asdict(settings)["key"] is secret
    assert copy.deepcopy(settings) == settings
    with pytest.raises(TypeError, match="a Secret cannot be pickled"):
        pickle.dumps(settings)


def test_secrets_are_equal_by_text() -> None:
    assert Secret("a") == Secret("a", {"env": "X"})
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a")}) == 1


# --------------------------------------------------------------------------------- what is resolved


def test_printed_stack_can_be_parsed_again() -> None:
    stack = parse(WHOLE).stack_or_raise()
    again = parse(to_toml(stack)).stack_or_raise()

    assert again == stack


def test_printed_stack_contains_all_defaults() -> None:
    stack = parse(FEED).stack_or_raise()

    assert to_toml(stack) == dedent("""\
        backend = "asyncio"

        [[feed]]
        venue = "acme"
        symbols = ["BTC/USDT"]
        channels = ["trades"]
        name = "acme"
        stages = []
        max_batch_delay = 0.0

        [venue.acme]

        [queue]
        size = 10000
        policy = "block"

        [network]
        compression = false

        [flight]
        seconds = 30.0
        size = 1048576
        keep = 20

        [process]
        gc_threshold = 0
        """)


def test_printed_settings_contain_defaults_and_the_origin_of_a_secret() -> None:
    @attrs.frozen
    class Limits:
        rate: int = 5

    @attrs.frozen
    class Settings:
        key: Secret
        limits: Limits = Limits()
        empty: str | None = None

    stack = parse(f'{FEED}[venue.acme]\nkey = {{ env = "KEY" }}').stack_or_raise()
    text = to_toml(stack, {"venue.acme": Settings(Secret("hunter2", {"env": "KEY"}))})

    assert '[venue.acme]\nkey = { env = "KEY" }\nlimits = { rate = 5 }\n\n' in text
    assert "hunter2" not in text


def test_plain_text_secret_in_the_file_is_masked() -> None:
    stack = parse(f'{FEED}[venue.acme]\napi_key = "hunter2"').stack_or_raise()

    assert "hunter2" not in repr(stack) + to_toml(stack)
