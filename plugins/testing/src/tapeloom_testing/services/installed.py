"""Find the files of the servers that the extras of tapeloom-testing install.

The servers come as Python packages, so that `pip` installs and pins them. Their files are found
through the package's metadata; none of their Python code is imported.
"""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path
from typing import NoReturn

import pytest

__all__ = ["REQUIRED_VARIABLE", "ServiceNotInstalled", "installed_file", "not_installed"]

#: If this environment variable is "required", a missing server is an error, never a skipped test.
REQUIRED_VARIABLE = "TAPELOOM_SERVICES"


class ServiceNotInstalled(Exception):
    """The package with a server is not installed, or has no build for this system."""


def installed_file(distribution: str, extra: str, ending: str) -> Path:
    """Return the path of the file of a distribution whose path ends in *ending*.

    If there is none, skip the test, or raise ServiceNotInstalled; see `not_installed`.
    """
    try:
        files = metadata.files(distribution) or []
    except metadata.PackageNotFoundError:
        files = []
    found = [file for file in files if file.as_posix().endswith(ending)]
    if not found:
        not_installed(distribution, extra)
    return Path(str(found[0].locate())).resolve()


def not_installed(distribution: str, extra: str) -> NoReturn:
    """Skip the running test; raise ServiceNotInstalled if the variable forbids it or no test runs."""
    reason = (
        f"expected a server from the package {distribution}, which is not installed for this system;"
        f" install it with: pip install {distribution}, or the extra {extra!r} of tapeloom-testing"
    )
    if os.environ.get(REQUIRED_VARIABLE) == "required":
        raise ServiceNotInstalled(
            f"{reason} ({REQUIRED_VARIABLE}=required forbids to skip the test)"
        )
    if "PYTEST_CURRENT_TEST" not in os.environ:
        raise ServiceNotInstalled(reason)
    pytest.skip(reason)
