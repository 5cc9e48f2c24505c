"""The table of the plugin: what it takes, and what it says about a mistake."""

from decimal import Decimal

import pytest
import tapeloom_quality
from tapeloom_quality import RULES, TYPES, Settings


def test_the_hook_names_the_settings():
    assert tapeloom_quality._settings() is Settings


def test_settings_are_parsed_from_text():
    settings = Settings(max_jump="12.5%", confirm_after="1m", max_backwards="500ms", max_ahead="2s")

    assert settings.max_jump == Decimal("0.125")
    assert (settings.confirm_after, settings.max_backwards, settings.max_ahead) == (
        60 * 10**9,
        5 * 10**8,
        2 * 10**9,
    )


def test_the_defaults_equal_those_in_the_readme():
    settings = Settings()

    assert settings == Settings(
        max_jump="10%", confirmations=3, confirm_after="5s", max_backwards="1s", max_ahead="10s"
    )
    assert (settings.off, settings.types) == ((), TYPES)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_jump": "0%"}, "max_jump is a fraction above 0, such as '10%'"),
        ({"max_jump": "ten"}, "is not a fraction"),
        ({"confirmations": 0}, "confirmations is a number of events, 1 or more, and was 0"),
        ({"confirm_after": "soon"}, "is not a duration"),
        ({"off": ("jumps",)}, "off does not accept 'jumps'.*Did you mean 'jump'?"),
        ({"off": "jump"}, r"off is a list of names. Write \['jump'\]"),
        ({"types": ("trades",)}, "types does not accept 'trades'.*Did you mean 'trade'?"),
    ],
)
def test_an_invalid_setting_is_refused_with_the_allowed_values(wrong, message):
    with pytest.raises(ValueError, match=message):
        Settings(**wrong)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_can_be_off(quality, make, rule):
    batch = [make.trade(1), make.quote(), make.book(), make.bar(), make.ticker()]

    assert quality(off=(rule,))(batch) is batch


def test_every_rule_and_setting_is_in_the_readme(request):
    readme = (request.path.parent.parent / "README.md").read_text()
    words = [
        *RULES,
        "max_jump",
        "confirmations",
        "confirm_after",
        "backwards",
        "ahead",
        "off",
        "types",
    ]

    assert [word for word in words if f"`{word}`" not in readme] == []
