from __future__ import annotations

import inspect
import pickle

import pytest
from tapeloom import errors
from tapeloom.errors import (
    BackendUnsupported,
    ConfigError,
    ConnectionLost,
    FeedError,
    Mistake,
    PluginError,
    PluginNotFound,
    RequestFailed,
    RequestRefused,
    StageFailed,
    TapeError,
    TapeloomError,
    Throttled,
    masked,
    nearest,
    printable,
)


def tree() -> list[type[TapeloomError]]:
    return [
        cls
        for _, cls in inspect.getmembers(errors, inspect.isclass)
        if issubclass(cls, TapeloomError) and cls is not TapeloomError
    ]


@pytest.mark.parametrize("cls", tree())
def test_every_error_is_in_the_tree_of_the_docstring_and_public(cls: type[TapeloomError]) -> None:
    assert f"─ {cls.__name__}" in (errors.__doc__ or "")
    assert cls.__name__ in errors.__all__


def test_public_names_are_sorted() -> None:
    assert errors.__all__ == sorted(errors.__all__)


def test_the_nearest_name_is_proposed_only_if_one_is_close() -> None:
    assert nearest("symbl", ["symbols", "venue"]) == " Did you mean 'symbols'?"
    assert nearest("zzz", ["symbols", "venue"]) == ""
    assert nearest("symbl", []) == ""


def test_config_error_lists_every_mistake_with_its_place() -> None:
    error = ConfigError(
        [Mistake("feed[0].venue", "expected a name"), Mistake("", "empty")], "s.toml"
    )

    assert str(error) == "s.toml: feed[0].venue: expected a name\ns.toml: empty"
    assert [mistake.place for mistake in error.mistakes] == ["feed[0].venue", ""]


def test_a_config_error_of_a_text_is_one_mistake_without_a_place() -> None:
    assert str(ConfigError("no key is given")) == "stack: no key is given"
    assert ConfigError(["a", Mistake("b", "c")]).mistakes == (Mistake("", "a"), Mistake("b", "c"))


def test_a_missing_plugin_error_proposes_an_installed_name_and_no_package_that_may_not_exist() -> (
    None
):
    assert str(PluginNotFound("binanse", ["binance"])) == (
        "no plugin named 'binanse' is installed. Did you mean 'binance'?"
    )
    assert str(PluginNotFound("kraken", ["binance"])) == (
        "no plugin named 'kraken' is installed."
        " Install the package that has it; installed are: binance."
    )
    assert str(PluginNotFound("kraken")) == (
        "no plugin named 'kraken' is installed. Install the package that has it."
    )


def test_an_unsupported_backend_error_names_the_setting_to_write() -> None:
    error = BackendUnsupported("ib", "trio", {"asyncio"})

    assert isinstance(error, PluginError)
    assert error.plugin == "ib"
    assert str(error) == (
        "plugin 'ib' needs asyncio and was run on trio. Set backend = \"asyncio\" in the stack."
    )


def test_a_tape_error_names_the_line_if_there_is_one() -> None:
    assert str(TapeError("a.jsonl", 7, "cut off")) == "a.jsonl: line 7: cut off"
    assert str(TapeError("a.jsonl", 0, "no such file")) == "a.jsonl: no such file"


def test_feed_error_names_its_feed() -> None:
    assert str(FeedError("majors", "gone")) == "feed 'majors': gone"
    assert str(FeedError("", "gone")) == "gone"


@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        (FeedError("f", "x"), False),
        (ConnectionLost("f", "x", 1006), True),
        (RequestFailed("f", "x", 0), True),
        (RequestFailed("f", "x", 503), True),
        (RequestFailed("f", "x", 404), False),
        (Throttled("f", "x"), True),
    ],
)
def test_an_error_has_retryable_if_trying_again_may_help(error: FeedError, retryable: bool) -> None:
    assert error.retryable is retryable


def test_a_stage_error_names_the_stage_the_cause_and_the_remedy() -> None:
    error = StageFailed("majors", "bars", KeyError("x"))

    assert error.stage == "bars"
    assert str(error) == (
        "feed 'majors': stage 'bars' raised KeyError: 'x'. This is a defect of that plugin;"
        " remove the stage from the stack to run without it."
    )


def test_mistake_survives_pickling() -> None:
    mistake = Mistake("feed[0]", "x")

    assert pickle.loads(pickle.dumps(mistake)) == mistake


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("wss://me:hunter2@h.io/ws", "wss://***@h.io/ws"),
        ("wss://hunter2@h.io", "wss://***@h.io"),
        ("wss://me:hun@ter2@h.io:1/x refused", "wss://***@h.io:1/x refused"),
        ("'wss://me:h/unter2@h.io' is odd", "'wss://***@h.io' is odd"),
        ("http://[::1]:80/a?b=c@d", "http://[::1]:80/a?b=c@d"),
        ("see ws://h:9443/stream?streams=btcusdt@trade now", None),
        ("ws://h:80: expected me@h.io", None),
        ("https://h.io/x?symbol=A&api_key=hunter2&limit=5", "https://h.io/x?symbol=A&api_key=***&limit=5"),
        ("ws://h.io/?token=hunter2", "ws://h.io/?token=***"),
        ("https://h.io/x?page_token=abc&signature=hunter2", "https://h.io/x?page_token=abc&signature=***"),
        ("me@h.io wrote: keys = 5", None),
    ],
)  # fmt: skip
def test_secrets_of_urls_in_a_text_are_masked(text: str, shown: str | None) -> None:
    assert masked(text) == (text if shown is None else shown)


def test_no_error_shows_the_password_of_a_url() -> None:
    url = "wss://me:hunter2@h.io"
    mistake = Mistake("venue.x.base_url", f"got {url}")
    errors = [FeedError("f", f"{url} failed"), PluginError("p", url), ConfigError([mistake])]

    assert "hunter2" not in f"{errors} {mistake} {[str(error) for error in errors]}"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, ü and 币", "plain text, ü and 币"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("one\r\ntwo", "one\\r\\ntwo"),
        ("\x9b2J\u202e\u2028\ud800", "\\x9b2J\\u202e\\u2028\\ud800"),
        ("x" * 1000, "x" * 1000),
        ("x" * 1001, "x" * 999 + "…"),
        ("\x1b" * 9_000_000, "\\x1b" * 249 + "\\x1" + "…"),
    ],
    ids=["plain", "escape", "lines", "others", "longest", "longer", "huge"],
)
def test_a_text_is_made_printable_on_one_line_and_is_cut(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown


@pytest.mark.parametrize(
    "error",
    [
        FeedError("acme", "\x1b[2Jall is well\r\n"),
        ConnectionLost("acme", "\x1b[2Jall is well\r\n"),
        TapeError("a.jsonl", 3, "\x1b[2Jall is well\r\n"),
        RequestRefused("\x1b[2Jall is well\r\n"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_shows_the_text_of_a_venue_with_escapes(error: Exception) -> None:
    assert "\\x1b[2Jall is well\\r\\n" in str(error)
    assert str(error).isprintable()
