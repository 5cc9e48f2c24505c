"""`structure`: reading a plugin's TOML table into its settings class."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tapeloom._config import Secret, structure
from tapeloom.errors import ConfigError, Mistake
from tapeloom.units import duration_ns, fraction


@attrs.frozen(kw_only=True)
class Conformance:
    depth: int = 5
    price: Decimal = Decimal(1)


def _positive(_: object, attribute: attrs.Attribute[int], value: int) -> None:
    if value <= 0:
        raise ValueError(f"{attribute.name} must be above zero, not {value}")


def _durations(value: str | Sequence[str]) -> tuple[int, ...]:
    return tuple(duration_ns(text) for text in ([value] if isinstance(value, str) else value))


def _unannotated(value):  # type: ignore[no-untyped-def]
    return int(value)


BARE: Any = _unannotated


@attrs.frozen(kw_only=True)
class Settings:
    """One field of every kind that a plugin may have."""

    count: int = attrs.field(default=1, validator=_positive)
    ratio: float = 0.5
    on: bool = False
    word: str = ""
    jump: Decimal = Decimal("0.1")
    words: tuple[str, ...] = ()
    pair: tuple[str, int] = ("", 0)
    mode: Literal["skip", "fill"] = "skip"
    step: Literal[1, 5] = 1
    limit: int | None = None
    either: str | int = ""
    level: Conformance = attrs.field(factory=Conformance)
    levels: tuple[Conformance, ...] = ()
    named: dict[str, int] = attrs.field(factory=dict)
    path: Path | None = None
    anything: Any = None
    every: tuple[int, ...] = attrs.field(default=(), converter=_durations)
    lateness: int = attrs.field(default=0, converter=duration_ns)
    share: Decimal = attrs.field(default=Decimal(0), converter=fraction)
    cast: int = attrs.field(default=0, converter=int)
    loose: int = attrs.field(default=0, converter=BARE)  # type: ignore[misc]
    within: int = attrs.field(default=0, validator=attrs.validators.in_([0, 1, 2]))
    _start: str = ""


@attrs.frozen
class Keyed:
    api_key: Secret
    other: Secret | None = None
    count: int = 0


class Opaque:
    pass


@attrs.frozen
class Odd:
    thing: Opaque


def problems(cls: type[Any], table: Any) -> list[str]:
    made, mistakes = structure(cls, table, "stage.x")
    assert made is None
    return [str(mistake) for mistake in mistakes]


@pytest.mark.parametrize(
    ("key", "given", "made"),
    [
        ("count", 3, 3),
        ("ratio", 2, 2.0),
        ("on", True, True),
        ("word", "x", "x"),
        ("jump", "0.10", Decimal("0.10")),
        ("jump", 0.1, Decimal("0.1")),
        ("jump", 3, Decimal(3)),
        ("words", ["a", "b"], ("a", "b")),
        ("words", "one", ("one",)),
        ("pair", ["a", 1], ("a", 1)),
        ("mode", "fill", "fill"),
        ("limit", 3, 3),
        ("limit", None, None),
        ("either", 3, 3),
        ("either", "4", "4"),
        ("level", {"depth": 9}, Conformance(depth=9)),
        ("levels", [{"depth": 9}, {}], (Conformance(depth=9), Conformance())),
        ("named", {"a": 1}, {"a": 1}),
        ("path", "x/y", Path("x/y")),
        ("anything", [1, {}], [1, {}]),
        ("every", ["1s", "1m"], (10**9, 60 * 10**9)),
        ("every", "1s", (10**9,)),
        ("lateness", "5ms", 5_000_000),
        ("lateness", 5, 5),
        ("share", "10%", Decimal("0.1")),
        ("share", 0.1, Decimal("0.1")),
        ("cast", 7, 7),
        ("loose", "7", 7),
        ("start", "x", "x"),
    ],
)
def test_value_is_accepted(key: str, given: object, made: object) -> None:
    settings, mistakes = structure(Settings, {key: given}, "stage.x")

    assert mistakes == []
    assert settings is not None
    value = getattr(settings, "_start" if key == "start" else key)
    assert value == made
    assert type(value) is type(made)


REFUSED = [
    ("count", "5", "count: expected a whole number, got the string '5'"),
    ("count", 5.0, "count: expected a whole number, got the number 5.0"),
    ("count", True, "count: expected a whole number, got true"),
    ("count", -1, "count: count must be above zero, not -1"),
    ("ratio", "0.5", "ratio: expected a number, got the string '0.5'"),
    ("ratio", False, "ratio: expected a number, got false"),
    ("ratio", float("nan"), "ratio: expected a number, got the number nan"),
    ("on", 1, "on: expected true or false, got the number 1"),
    ("on", "yes", "on: expected true or false, got the string 'yes'"),
    ("word", 5, "word: expected a string, got the number 5"),
    ("word", ["a"], "word: expected a string, got an array"),
    ("jump", "10 %", "jump: expected a number, got the string '10 %'"),
    ("jump", "NaN", "jump: expected a number, got the string 'NaN'"),
    ("jump", True, "jump: expected a number, got true"),
    ("words", ["a", 1], "words[1]: expected a string, got the number 1"),
    ("words", {"a": 1}, "words: expected an array of strings, got a table"),
    ("pair", ["a"], "pair: expected an array of 2, got one of 1"),
    ("pair", ["a", "b"], "pair[1]: expected a whole number, got the string 'b'"),
    (
        "mode",
        "fil",
        "mode: expected one of 'skip', 'fill', got the string 'fil'. Did you mean 'fill'?",
    ),
    ("step", True, "step: expected one of 1, 5, got true"),
    ("limit", "3", "limit: expected a whole number, got the string '3'"),
    ("either", 1.5, "either: expected a string or a whole number, got the number 1.5"),
    ("level", 5, "level: expected a table, got the number 5"),
    ("level", {"dept": 5}, "level.dept: unknown key. Did you mean 'depth'?"),
    (
        "levels",
        [{}, {"depth": "5"}],
        "levels[1].depth: expected a whole number, got the string '5'",
    ),
    ("levels", "x", "levels: expected an array, got the string 'x'"),
    ("named", {"a": "1"}, "named.a: expected a whole number, got the string '1'"),
    ("named", [1], "named: expected a table, got an array"),
    ("path", 1, "path: expected a path, got the number 1"),
    (
        "every",
        "1x",
        "every: '1x' is not a duration. Write a whole number and a unit: '500ms', '1m', '4h', '1d'.",
    ),
    ("every", ["1s", 5.5], "every[1]: expected a string, got the number 5.5"),
    ("lateness", 1.5, "lateness: expected a string or a whole number, got the number 1.5"),
    ("share", "ten", "share: 'ten' is not a fraction. Write '10%' or 0.1."),
    ("cast", "7", "cast: expected a whole number, got the string '7'"),
    ("loose", "x", "loose: invalid literal for int() with base 10: 'x'"),
    (
        "loose",
        [],
        "loose: an array cannot be read (int() argument must be a string, a bytes-like object or a real number, not 'list')",
    ),
    ("within", 3, "within: 'within' must be in [0, 1, 2] (got 3)"),
    ("_start", "x", "_start: unknown key. Did you mean 'start'?"),
    ("max_coun", 1, "max_coun: unknown key. Did you mean 'count'?"),
]


@pytest.mark.parametrize(
    ("key", "given", "message"),
    REFUSED,
    ids=[f"{index}-{row[0]}" for index, row in enumerate(REFUSED)],
)
def test_value_is_rejected_with_expected_and_received(
    key: str, given: object, message: str
) -> None:
    assert problems(Settings, {key: given}) == [f"stage.x.{message}"]


def test_every_mistake_in_a_table_is_reported() -> None:
    table = {
        "count": -1,
        "ratio": "x",
        "every": ["1s", "1x"],
        "level": {"depth": "x", "pric": 1},
        "within": 9,
        "zzzzz": 1,
    }
    known = (
        "anything, cast, count, either, every, jump, lateness, level, levels, limit, loose,"
        " mode, named, on, pair, path, ratio, share, start, step, within, word, words"
    )

    assert problems(Settings, table) == [
        "stage.x.count: count must be above zero, not -1",
        "stage.x.ratio: expected a number, got the string 'x'",
        "stage.x.level.depth: expected a whole number, got the string 'x'",
        "stage.x.level.pric: unknown key. Did you mean 'price'?",
        (
            "stage.x.every: '1x' is not a duration."
            " Write a whole number and a unit: '500ms', '1m', '4h', '1d'."
        ),
        "stage.x.within: 'within' must be in [0, 1, 2] (got 9)",
        f"stage.x.zzzzz: unknown key. Known: {known}",
    ]


def test_value_that_is_not_a_table_is_rejected() -> None:
    assert problems(Settings, 5) == ["stage.x: expected a table, got the number 5"]


def test_missing_key_is_reported_with_its_type() -> None:
    @attrs.frozen
    class Needy:
        word: str
        every: int = attrs.field(converter=duration_ns)
        any: int = attrs.field(converter=BARE)  # type: ignore[misc]

    assert problems(Needy, {}) == [
        "stage.x: the key 'word' is missing; expected a string",
        "stage.x: the key 'every' is missing; expected a string or a whole number",
        "stage.x: the key 'any' is missing",
    ]


def test_validator_across_fields_runs_when_all_fields_are_valid() -> None:
    @attrs.frozen(kw_only=True)
    class Range:
        high: int = attrs.field()
        low: int = 0

        @high.validator
        def _above(self, _: attrs.Attribute[int], value: int) -> None:
            if value <= self.low:
                raise ValueError(f"high must be above low, {self.low}")

        def __attrs_post_init__(self) -> None:
            if self.high > 100:
                raise KeyError("too high")

    assert structure(Range, {"high": 5}, "stage.x") == (Range(high=5), [])
    assert problems(Range, {"low": 9, "high": 5}) == ["stage.x: high must be above low, 9"]
    assert problems(Range, {"low": "x", "high": 5}) == [
        "stage.x.low: expected a whole number, got the string 'x'"
    ]
    assert problems(Range, {"high": 101}) == ["stage.x: KeyError: 'too high'"]


def test_config_error_of_a_class_keeps_its_places() -> None:
    def check(value: str) -> str:
        raise ConfigError([Mistake("word[2]", "no"), Mistake("", "not at all")])

    @attrs.frozen
    class Strict:
        word: str = attrs.field(converter=check)

    assert problems(Strict, {"word": "abc"}) == ["stage.x.word[2]: no", "stage.x: not at all"]


def test_class_that_cannot_be_read_is_a_defect_of_the_plugin() -> None:
    @attrs.frozen
    class Broken:
        word: Missing  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(TypeError, match=r"Broken cannot be read from TOML: name 'Missing'"):
        structure(Broken, {}, "stage.x")
    with pytest.raises(TypeError, match=r"cannot be read from TOML: Unsupported type"):
        structure(Odd, {"thing": 1}, "stage.x")
    with pytest.raises(TypeError, match=r"Opaque cannot be read from TOML: Unsupported type"):
        structure(Opaque, {}, "stage.x")


@given(
    st.dictionaries(
        st.sampled_from([field.alias for field in attrs.fields(Settings)] + ["x"]),
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
            lambda inner: st.one_of(
                st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=3), inner, max_size=2)
            ),
            max_leaves=4,
        ),
        max_size=4,
    )
)
def test_any_table_gives_settings_or_mistakes(table: Mapping[str, Any]) -> None:
    settings, mistakes = structure(Settings, table, "stage.x")

    assert (settings is None) == bool(mistakes)
    assert all(mistake.place.startswith("stage.x") for mistake in mistakes)


# ----------------------------------------------------------------------------------------- secrets


def test_secret_comes_from_the_environment_or_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACME_KEY", "hunter2")
    (tmp_path / "other").write_text("swordfish\n")
    table = {"api_key": {"env": "ACME_KEY"}, "other": {"file": "other"}}

    settings, mistakes = structure(Keyed, table, "venue.acme", folder=tmp_path)

    assert mistakes == []
    assert settings is not None
    assert settings.other is not None
    assert (settings.api_key.reveal(), settings.other.reveal()) == ("hunter2", "swordfish")
    assert settings.api_key.origin == {"env": "ACME_KEY"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "hunter2",
            (
                "a secret must not be in the stack itself:"
                ' write { env = "NAME" } or { file = "path" }'
            ),
        ),
        (
            ["hunter2"],
            (
                "a secret must not be in the stack itself:"
                ' write { env = "NAME" } or { file = "path" }'
            ),
        ),
        ({"env": "ACME_NOT_SET"}, "the environment variable 'ACME_NOT_SET' is not set"),
        ({"env": "ACME_EMPTY"}, "the environment variable 'ACME_EMPTY' is empty"),
        (
            {"env": "hunter2!"},
            (
                "env must be the name of an environment variable:"
                ' write { env = "NAME" } or { file = "path" }'
            ),
        ),
        ({"env": 5}, 'env must be a name in quotes: write { env = "NAME" } or { file = "path" }'),
        ({"envi": "X"}, "unknown key 'envi' in a secret. Did you mean 'env'?"),
        (
            {"env": "X", "file": "y"},
            'a secret has one origin: write { env = "NAME" } or { file = "path" }',
        ),
        ({}, 'a secret has one origin: write { env = "NAME" } or { file = "path" }'),
    ],
)
@pytest.mark.parametrize("key", ["api_key", "other"])
def test_unavailable_secret_is_reported_without_its_text(
    key: str, given: object, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ACME_NOT_SET", raising=False)
    monkeypatch.setenv("ACME_EMPTY", "")
    monkeypatch.setenv("ACME_KEY", "x")
    found = problems(Keyed, {"api_key": {"env": "ACME_KEY"}, key: given})

    assert found == [f"stage.x.{key}: {message}"]
    assert "hunter2" not in str(found)


def test_unreadable_secret_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text(" \n")
    (tmp_path / "binary").write_bytes(b"\xff")
    os.mkfifo(tmp_path / "pipe")
    found = [
        str(structure(Keyed, {"api_key": {"file": name}}, "v", folder=tmp_path)[1][0])
        for name in ("missing", "empty", "binary", "pipe", "/dev/zero")
    ]

    assert found == [
        f"v.api_key: the file '{tmp_path}/missing' cannot be read: No such file or directory",
        f"v.api_key: the file '{tmp_path}/empty' is empty",
        f"v.api_key: the file '{tmp_path}/binary' is not UTF-8 text",
        f"v.api_key: the file '{tmp_path}/pipe' cannot be read: it is not a regular file",
        "v.api_key: the file '/dev/zero' cannot be read: it is not a regular file",
    ]


def test_secret_in_a_validator_message_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    def long_enough(_: object, __: attrs.Attribute[Secret], value: Secret) -> None:
        raise ValueError(f"{value.reveal()!r} is too short")

    @attrs.frozen
    class Strict:
        key: Secret = attrs.field(validator=long_enough)

    monkeypatch.setenv("ACME_KEY", "hunter2")

    assert problems(Strict, {"key": {"env": "ACME_KEY"}}) == ["stage.x.key: '***' is too short"]
