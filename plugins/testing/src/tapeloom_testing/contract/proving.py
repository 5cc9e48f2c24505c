"""The base class of all contracts: check guarantees, cache the outcomes, write conformance files.

Conformance is what was proven of a plugin: its guarantees per market. The file stands in the
package of the plugin.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest
from attrs import asdict
from tapeloom import Registry
from tapeloom.harness import Conformance, Proof, conformance_file, installed, read_conformance

from .conformance import write
from .declared import ContractViolation, NotApplicable

__all__ = ["Proving", "cached_result", "first_difference"]

#: The pytest option that writes the conformance file instead of comparing with it.
_WRITE_OPTION = "--write-contract"
#: Characters of a conformance that an error text shows.
_SHOWN_CHARACTERS = 1500


class Proving:
    """The base class of the contracts of venues, stages, sinks and transports."""

    kind: ClassVar[str]  #: venue, stage, sink or transport
    guarantees: ClassVar[dict[str, str]]  #: key of a guarantee → its claim
    variant: str = ""  #: tells apart several contract classes of one plugin
    #: guarantees that are not claimed → the reason; keys are "sides", "sides spot", "sides trades"
    #: or "sides spot trades" (guarantee, market, channel)
    without: ClassVar[Any] = {}

    _outcomes: ClassVar[dict[tuple[type, str, str], Exception | None]] = {}

    def name(self) -> str:
        """Return the name of the tapeloom plugin that the contract checks.

        It stands in the attribute that is named like the kind: `venue`, `stage`, `sink`, `transport`.
        """
        name: str = getattr(self, self.kind)
        return name

    def registry(self) -> Registry:
        """Return the registry that contains the plugin."""
        return Registry()

    def places(self) -> Sequence[str]:
        """Return the names of the markets to check one by one; one empty name if there are no markets."""
        return ("",)

    def check(self, guarantee: str, place: str) -> None:
        """Check one guarantee. Raise ContractViolation or NotApplicable."""
        getattr(self, f"_{guarantee}")()

    def proof(self, place: str, guarantees: list[str], without: dict[str, str]) -> Proof:
        """Return the conformance of one market."""
        return Proof(guarantees=guarantees, without=without)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Parametrise the tests that take `place` with every market."""
        if "place" in metafunc.fixturenames:
            metafunc.parametrize("place", self.places(), ids=lambda place: place or "all")

    # ------------------------------------------------------------------------------------ checking

    def reason(self, guarantee: str, place: str, channel: str = "") -> str:
        """Return why a guarantee is not claimed; an empty text if it is claimed."""
        keys = [f"{guarantee} {place} {channel}", f"{guarantee} {channel}"] if channel else []
        keys += [] if channel else [f"{guarantee} {place}", guarantee]
        return next((self.without[key] for key in keys if self.without.get(key)), "")

    def outcome(self, guarantee: str, place: str) -> Exception | None:
        """Return the exception that a guarantee's check raised for one market; None if it passed.

        *place* is a market, one of `places()`. The check runs at the first call only; later
        calls return the same outcome.
        """
        key = (type(self), guarantee, place)
        if key not in self._outcomes:
            self._outcomes[key] = self._run_check(guarantee, place)
        return self._outcomes[key]

    def _run_check(self, guarantee: str, place: str) -> Exception | None:
        try:
            if reason := self.reason(guarantee, place):
                raise NotApplicable(reason)
            self.check(guarantee, place)
        except Exception as error:
            return error
        return None

    def prove(self, guarantee: str, place: str) -> None:
        """Pass, skip or fail the running test, by the outcome of one check."""
        outcome = self.outcome(guarantee, place)
        if isinstance(outcome, NotApplicable):
            pytest.skip(str(outcome))
        if isinstance(outcome, ContractViolation):
            pytest.fail(f"{self.name()} {place}: {guarantee}: {outcome}", pytrace=False)
        if outcome is not None:
            raise outcome

    # --------------------------------------------------------------------------------- conformance

    def level(self, request: pytest.FixtureRequest) -> None:
        """Compare what was proven with the conformance file of the package, or write the file."""
        unknown = {key.partition(" ")[0] for key in self.without} - {*self.guarantees}
        if unknown:
            raise ContractViolation(
                f"`without` names the unknown guarantees {sorted(unknown)}. Known are:"
                f" {sorted(self.guarantees)}."
            )
        found = installed().get(self.name())
        path = conformance_file(found.module) if found is not None else None
        if found is None or path is None:
            pytest.skip(
                f"{self.name()!r} is not an installed plugin, so it has no conformance file"
            )
        proven = {self._key(place): self._prove_place(place) for place in self.places()}
        committed = read_conformance(found.module) or Conformance(self.kind, self.name())
        if request.config.getoption(_WRITE_OPTION, default=False):
            variants = {
                key: proof
                for key, proof in committed.proven.items()
                if self._is_of_another_variant(key)
            }
            merged = dict(sorted((variants | proven).items()))
            write(Conformance(self.kind, self.name(), merged), path)
            return
        mine = {
            key: proof
            for key, proof in committed.proven.items()
            if not self._is_of_another_variant(key)
        }
        if mine != proven:
            pytest.fail(
                f"{path.name} of {self.name()} has {_format_proofs(mine)}, but this was proven:"
                f" {_format_proofs(proven)}. If the change is intended, run this file with {_WRITE_OPTION}.",
                pytrace=False,
            )

    def _key(self, place: str) -> str:
        return f"{place}, {self.variant}" if self.variant else place

    def _is_of_another_variant(self, key: str) -> bool:
        """Return whether a contract class of another variant proves this key."""
        return key.partition(", ")[2] != self.variant

    def _prove_place(self, place: str) -> Proof:
        outcomes = {guarantee: self.outcome(guarantee, place) for guarantee in self.guarantees}
        not_installed = [
            str(outcome)
            for outcome in outcomes.values()
            if isinstance(outcome, NotApplicable) and outcome.here
        ]
        if not_installed:
            pytest.skip(f"conformance needs everything installed: {not_installed[0]}")
        failed = [
            guarantee
            for guarantee, outcome in outcomes.items()
            if outcome and not isinstance(outcome, NotApplicable)
        ]
        if failed:
            pytest.fail(
                f"{place}: {', '.join(failed)} failed, so its conformance is unknown", pytrace=False
            )
        if held := [
            guarantee for guarantee in outcomes if self._needlessly_without(guarantee, place)
        ]:
            pytest.fail(
                f"{place}: {', '.join(held)} holds: remove it from `without`", pytrace=False
            )
        guarantees = [guarantee for guarantee, outcome in outcomes.items() if outcome is None]
        not_claimed = {
            guarantee: str(outcome)
            for guarantee, outcome in outcomes.items()
            if outcome is not None
        }
        # Reasons for single markets or channels.
        narrow = {
            key: reason
            for key, reason in self.without.items()
            if key.partition(" ")[2] not in ("", *self.places())
            and (place in key.split(" ") or not {*key.split(" ")} & {*self.places()})
        }
        return self.proof(place, guarantees, not_claimed | narrow)

    def _needlessly_without(self, guarantee: str, place: str) -> bool:
        """Return whether a guarantee in `without` holds all the same."""
        if not self.reason(guarantee, place):
            return False
        try:
            self.check(guarantee, place)
        except Exception:
            return False
        return True


def _format_proofs(proven: dict[str, Proof]) -> str:
    return re.sub(r"[{}'\"]", "", str({key: asdict(proof) for key, proof in proven.items()}))[
        :_SHOWN_CHARACTERS
    ]


def cached_result(make: Callable[[], Any], store: dict[Any, Any], key: Any) -> Any:
    """Return the cached result of *make* for *key*, or raise its cached exception."""
    if key not in store:
        try:
            store[key] = make()
        except Exception as error:
            store[key] = error
    if isinstance(store[key], Exception):
        raise store[key]
    return store[key]


def first_difference(expected: Sequence[Any], got: Sequence[Any]) -> int:
    """Return the first index at which two lists differ; the shorter length if one begins the other."""
    pairs = zip(expected, got, strict=False)
    return next(
        (index for index, (wanted, found) in enumerate(pairs) if wanted != found),
        min(len(expected), len(got)),
    )
