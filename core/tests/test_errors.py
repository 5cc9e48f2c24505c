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
    StageFailed,
    TapeError,
    TapeloomError,
    Throttled,
    nearest,
)


def tree() -> list[type[TapeloomError]]:
    return [
        cls
        for _, cls in inspect.getmembers(errors, inspect.isclass)
        if issubclass(cls, TapeloomError) and cls is not TapeloomError
    ]


@pytest.mark.parametrize("cls", tree())
def test_everything_raised_is_in_the_drawn_tree_and_public(cls: type[TapeloomError]) -> None:
    assert f"─ {cls.__name__}" in (errors.__doc__ or "")
    assert cls.__name__ in errors.__all__


def test_public_names_are_sorted() -> None:
    assert errors.__all__ == sorted(errors.__all__)


def test_nearest_word_is_proposed_only_where_there_is_one() -> None:
    assert nearest("symbl", ["symbols", "venue"]) == " Did you mean 'symbols'?"
    assert nearest("zzz", ["symbols", "venue"]) == ""
    assert nearest("symbl", []) == ""


def test_config_error_lists_every_mistake_with_its_place() -> None:
    error = ConfigError(
        [Mistake("feed[0].venue", "expected a name"), Mistake("", "empty")], "s.toml"
    )

    assert str(error) == "s.toml: feed[0].venue: expected a name\ns.toml: empty"
    assert [mistake.place for mistake in error.mistakes] == ["feed[0].venue", ""]


def test_missing_plugin_is_answered_with_the_nearest_or_with_the_command_that_installs_it() -> None:
    assert str(PluginNotFound("binanse", ["binance"])) == (
        "no plugin named 'binanse' is installed. Did you mean 'binance'?"
    )
    assert str(PluginNotFound("kraken", ["binance"])) == (
        "no plugin named 'kraken' is installed. Try: pip install tapeloom-kraken"
    )


def test_unsupported_backend_names_the_line_to_write() -> None:
    error = BackendUnsupported("ib", "trio", {"asyncio"})

    assert isinstance(error, PluginError)
    assert error.plugin == "ib"
    assert str(error) == (
        "plugin 'ib' needs asyncio and was run on trio. Set backend = \"asyncio\" in the stack."
    )


def test_tape_error_names_the_line_where_there_is_one() -> None:
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
def test_error_says_whether_trying_again_may_help(error: FeedError, retryable: bool) -> None:
    assert error.retryable is retryable


def test_failed_stage_names_the_stage_the_cause_and_the_remedy() -> None:
    error = StageFailed("majors", "bars", KeyError("x"))

    assert error.stage == "bars"
    assert str(error) == (
        "feed 'majors': stage 'bars' raised KeyError: 'x'. This is a defect of that plugin;"
        " take the stage out of the stack to go on without it."
    )


def test_mistake_survives_pickling() -> None:
    mistake = Mistake("feed[0]", "x")

    assert pickle.loads(pickle.dumps(mistake)) == mistake
