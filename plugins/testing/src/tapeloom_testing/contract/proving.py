"""How parts of a contract are proven: once each, remembered, and written down as a level."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest
from attrs import asdict
from tapeloom.harness import Conformance, Proof, conformance_file, installed, read_conformance

from .conformance import write
from .declared import ContractViolation, NotApplicable

__all__ = ["Proving", "remembered"]

_SAID = "--write-contract"


class Proving:
    """What the contracts have in common. `kind` and `guarantees` say which it is."""

    kind: ClassVar[str]
    guarantees: ClassVar[dict[str, str]]
    variant: str = ""
    without: ClassVar[Any] = {}

    _outcomes: ClassVar[dict[tuple[type, str, str], Exception | None]] = {}

    def name(self) -> str:
        """Return the name of the plugin."""
        raise NotImplementedError

    def places(self) -> Sequence[str]:
        """Return what is proven one by one: the markets of a venue."""
        return ("",)

    def check(self, word: str, place: str) -> None:
        """Prove one guarantee. Raises Broken or Lacking."""
        raise NotImplementedError

    def proof(self, place: str, words: list[str], without: dict[str, str]) -> Proof:
        """Return what is proven of one place."""
        return Proof(guarantees=words, without=without)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run each part for each market."""
        if "place" in metafunc.fixturenames:
            metafunc.parametrize("place", self.places(), ids=lambda place: place or "all")

    # ------------------------------------------------------------------------------------- proving

    def reason(self, word: str, place: str, channel: str = "") -> str:
        """Return why a guarantee is not claimed, or nothing."""
        keys = [f"{word} {place} {channel}", f"{word} {channel}"] if channel else []
        keys += [] if channel else [f"{word} {place}", word]
        return next((self.without[key] for key in keys if self.without.get(key)), "")

    def outcome(self, word: str, place: str) -> Exception | None:
        """Prove one guarantee, or remember how that ended."""
        key = (type(self), word, place)
        if key not in self._outcomes:
            self._outcomes[key] = self._proven(word, place)
        return self._outcomes[key]

    def _proven(self, word: str, place: str) -> Exception | None:
        try:
            if reason := self.reason(word, place):
                raise NotApplicable(reason)
            self.check(word, place)
        except Exception as error:
            return error
        return None

    def prove(self, word: str, place: str) -> None:
        """Pass, skip or fail, as a test."""
        outcome = self.outcome(word, place)
        if isinstance(outcome, NotApplicable):
            pytest.skip(str(outcome))
        if isinstance(outcome, ContractViolation):
            pytest.fail(f"{self.name()} {place}: {word}: {outcome}", pytrace=False)
        if outcome is not None:
            raise outcome

    # -------------------------------------------------------------------------------------- levels

    def level(self, request: pytest.FixtureRequest) -> None:
        """Hold what was proven against what the package says, or write it there."""
        unknown = {key.partition(" ")[0] for key in self.without} - {*self.guarantees}
        if unknown:
            raise ContractViolation(
                f"`without` names {sorted(unknown)}; there is {sorted(self.guarantees)}."
            )
        found = installed().get(self.name())
        path = conformance_file(found.module) if found is not None else None
        if found is None or path is None:
            pytest.skip(f"{self.name()!r} is no installed package: it has no file to write to")
        proven = {self._key(place): self._place(place) for place in self.places()}
        level = read_conformance(found.module) or Conformance(self.kind, self.name())
        if request.config.getoption(_SAID, default=False):
            variants = {key: one for key, one in level.proven.items() if self._other(key)}
            write(
                Conformance(self.kind, self.name(), dict(sorted((variants | proven).items()))), path
            )
            return
        mine = {key: one for key, one in level.proven.items() if not self._other(key)}
        if mine != proven:
            pytest.fail(
                f"{path.name} of {self.name()} says {_shown(mine)} and this was proven:"
                f" {_shown(proven)}. Where that is as it should be, run this file with {_SAID}.",
                pytrace=False,
            )

    def _key(self, place: str) -> str:
        return f"{place}, {self.variant}" if self.variant else place

    def _other(self, key: str) -> bool:
        """Say whether another class proves this."""
        return key.partition(", ")[2] != self.variant

    def _place(self, place: str) -> Proof:
        outcomes = {word: self.outcome(word, place) for word in self.guarantees}
        here = [
            str(one) for one in outcomes.values() if isinstance(one, NotApplicable) and one.here
        ]
        if here:
            pytest.skip(f"a level is proven where everything is installed: {here[0]}")
        failed = [
            word for word, one in outcomes.items() if one and not isinstance(one, NotApplicable)
        ]
        if failed:
            pytest.fail(f"{place}: {', '.join(failed)} failed, so there is no level", pytrace=False)
        if held := [word for word in outcomes if self._needlessly_without(word, place)]:
            pytest.fail(
                f"{place}: {', '.join(held)} holds: take it out of `without`", pytrace=False
            )
        words = [word for word, one in outcomes.items() if one is None]
        lacking = {word: str(one) for word, one in outcomes.items() if one is not None}
        narrow = {
            key: why
            for key, why in self.without.items()
            if key.partition(" ")[2] not in ("", *self.places())
            and (place in key.split(" ") or not {*key.split(" ")} & {*self.places()})
        }
        return self.proof(place, words, lacking | narrow)

    def _needlessly_without(self, word: str, place: str) -> bool:
        """Say whether a guarantee that is not claimed is kept."""
        if not self.reason(word, place):
            return False
        try:
            self.check(word, place)
        except Exception:
            return False
        return True


def _shown(proven: dict[str, Proof]) -> str:
    return re.sub(r"[{}'\"]", "", str({key: asdict(one) for key, one in proven.items()}))[:1500]


def remembered(make: Callable[[], Any], store: dict[Any, Any], key: Any) -> Any:
    """Return what *make* gave the first time, or raise what it raised."""
    if key not in store:
        try:
            store[key] = make()
        except Exception as error:
            store[key] = error
    if isinstance(store[key], Exception):
        raise store[key]
    return store[key]
