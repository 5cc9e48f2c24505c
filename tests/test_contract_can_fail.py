"""The tests of core about its contract, where the simulator is installed: alone, core has none."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).parents[1] / "core/tests/test_contract.py"

pytestmark = pytest.mark.slow

spec = importlib.util.spec_from_file_location("core_tests_of_the_contract", PATH)
assert spec is not None
assert spec.loader is not None
module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
globals().update(
    {name: one for name, one in vars(module).items() if name == "tape" or name.startswith("test_")}
)
