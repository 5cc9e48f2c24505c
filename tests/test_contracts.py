"""Every installed plugin declares its contract, and the page of the venues shows what is proven.

The contracts are declared once, in the tests of each package, and proven there. Here are proven
those whose simulated server side is in another package, which is not installed there.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from tapeloom import Registry
from tapeloom.harness import installed, read_conformance
from tapeloom_simulator import simulators
from tapeloom_testing.contract import SinkContract, StageContract, TransportContract, VenueContract
from tapeloom_testing.contract.conformance import table
from tapeloom_testing.contract.declared import VENUE
from tapeloom_testing.contract.proving import Proving

pytestmark = pytest.mark.slow  # parsers meet every Python in the tests of their packages

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/reference/venues.md"
MARKS = "<!-- made by pytest tests/test_contracts.py --write-contract -->", "<!-- end -->"

#: The words of the channels that each venue has to declare.
CHANNELS = {
    "binance": {"trades", "agg_trades", "quotes", "book", "klines", "ticker"},
    "bybit": {"trades", "quotes", "book", "klines", "ticker"},
    "hyperliquid": {"trades", "quotes", "book", "klines"},
    "alpaca": {"trades", "quotes", "book", "klines"},
    "ib": {"trades", "quotes", "book", "klines"},
    "ccxt": {"trades", "book", "klines", "ticker"},
}
#: Which contract a plugin needs, by a hook that it implements.
NEEDED: dict[str, type[Proving]] = {
    "connect": VenueContract,
    "validate": StageContract,
    "aggregate": StageContract,
    "sink": SinkContract,
    "transport": TransportContract,
}


def load(path: Path) -> ModuleType:
    """Import a test file under a name of its own."""
    name = f"contract_of_{path.parents[1].name}"
    # A package, so that the file can import those beside it.
    spec = importlib.util.spec_from_file_location(
        name, path, submodule_search_locations=[str(path.parent)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def declared() -> dict[str, type[Proving]]:
    """Return the contract classes of all packages here, by name."""
    found = [
        item
        for path in sorted(ROOT.glob("*/*/tests/test_contract.py"))
        for item in vars(load(path)).items()
    ]
    return {
        name: cls
        for name, cls in found
        if name.startswith("Test") and isinstance(cls, type) and issubclass(cls, Proving)
    }


def needs_other_package(contract: type[Proving]) -> bool:
    """Return whether the simulated server side of a contract is in another package."""
    return issubclass(contract, VenueContract) and contract.simulator not in (None, contract.venue)


DECLARED = declared()
# pytest collects them from here.
globals().update({name: cls for name, cls in DECLARED.items() if needs_other_package(cls)})


#: Sinks without a store that could be read back, and why.
NO_STORE = {
    "metrics": "it keeps counts in memory, which tests/test_metrics.py compares with events",
    "serve": "it hands events to clients, which its own tests read",
    "web": "it shows events on a page, which tests/test_web_page.py reads",
}
#: Sources of events that another stream has made: there is no venue whose server could be simulated.
RELAYS = {
    "nats": "it reads what its own sink has published, which plugins/nats/tests/test_split.py compares",
    "remote": "it reads what tapeloom-serve serves, which plugins/serve/tests/test_remote.py compares",
}


@pytest.mark.parametrize("name", installed())
def test_every_installed_plugin_declares_its_contract(name: str) -> None:
    hooks = Registry().implements(name)
    needed = {NEEDED[hook] for hook in hooks if hook in NEEDED}
    if name in NO_STORE:
        needed.discard(SinkContract)
    if name in RELAYS:
        needed.discard(VenueContract)
    mine = [cls for cls in DECLARED.values() if cls().name() == name]
    missing = [cls.__name__ for cls in needed if not any(issubclass(one, cls) for one in mine)]

    assert missing == [], f"put a class that inherits from it into tests/test_contract.py of {name}"


@pytest.mark.parametrize("name", DECLARED)
def test_the_server_side_that_a_contract_names_is_installed(name: str) -> None:
    contract = DECLARED[name]
    if issubclass(contract, VenueContract):
        assert (contract.simulator or contract.venue) in simulators().installed


@pytest.mark.parametrize("name", CHANNELS)
def test_every_venue_declares_the_channels_that_it_is_to_have(name: str) -> None:
    channels: set[str] = set()
    for cls in DECLARED.values():
        if issubclass(cls, VenueContract) and cls.venue == name:
            given = cls.channels
            some = given.values() if hasattr(given, "values") else [given]
            channels |= {one.partition(":")[0] for each in some for one in each}

    assert channels >= CHANNELS[name]


@pytest.mark.parametrize("name", CHANNELS)
def test_every_channel_that_a_venue_serves_is_in_its_contract(name: str) -> None:
    served: dict[str, set[str]] = {}
    proven: dict[str, set[str]] = {}
    for cls in DECLARED.values():
        if not issubclass(cls, VenueContract) or cls.venue != name:
            continue
        for market in cls.markets:
            subject = cls().subject(market)
            plan = subject.plan()
            words = [one.channels for one in (*plan.endpoints, plan.source) if one is not None]
            served.setdefault(market, set()).update(*words)
            proven.setdefault(market, set()).update(
                one.partition(":")[0] for one in subject.channels
            )
    missing = {market: some - proven[market] for market, some in served.items()}

    assert {market: some for market, some in missing.items() if some} == {}


def test_the_page_of_the_venues_says_what_is_proven(request: pytest.FixtureRequest) -> None:
    levels = [read_conformance(found.module) for found in installed().values()]
    shown = table([level for level in levels if level is not None], VENUE)
    made = f"{MARKS[0]}\n\n{shown}\n\n{MARKS[1]}"
    text = PAGE.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(MARKS[0])}.*{re.escape(MARKS[1])}", re.DOTALL)
    wanted = pattern.sub(lambda _: made, text)
    if request.config.getoption("--write-contract"):
        PAGE.write_text(wanted, encoding="utf-8")
        return

    assert text == wanted, "run pytest tests/test_contracts.py --write-contract"
