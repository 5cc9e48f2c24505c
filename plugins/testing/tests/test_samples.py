"""Samples above message structs are found, decoded, and refused where they do not fit."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest
from tapeloom_testing.samples import check_sample, samples

SOURCE = """
import msgspec


class _Base(msgspec.Struct):
    pass


#: {"price": "1.5",
#: "size": null}
class TradeMessage(_Base):
    price: str
    size: str | None = None


class Other:
    pass
"""


class TradeMessage(msgspec.Struct):
    price: str
    size: str | None = None


class AllDefaults(msgspec.Struct):
    price: str = ""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "messages_of_a_test.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "messages_of_a_test", raising=False)
    return "messages_of_a_test"


def test_a_sample_over_several_lines_is_joined(module: str) -> None:
    ((struct, sample),) = samples(module, without={"_Base"})

    assert struct.__name__ == "TradeMessage"
    assert sample == '{"price": "1.5","size": null}'
    check_sample(struct, sample)


def test_a_struct_without_a_sample_has_an_empty_one_that_is_refused(module: str) -> None:
    found = {struct.__name__: (struct, sample) for struct, sample in samples(module)}

    with pytest.raises(msgspec.DecodeError):
        check_sample(*found["_Base"])


def test_a_module_without_a_message_struct_is_refused(module: str) -> None:
    with pytest.raises(ValueError, match="found none"):
        samples(module, without={"_Base", "TradeMessage"})


def test_a_sample_that_shares_no_member_with_the_struct_is_refused() -> None:
    with pytest.raises(AssertionError, match="shares no member"):
        check_sample(AllDefaults, '{"cost": "1"}')


def test_a_sample_of_another_type_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        check_sample(TradeMessage, '{"price": 1.5}')
