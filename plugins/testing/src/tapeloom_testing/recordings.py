"""Find the folder of real recordings."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["captures"]


def captures(root: Path) -> Path | None:
    """Return the folder of real recordings; None if it does not exist.

    The environment variable TAPELOOM_CAPTURES names it; the default is ``../shared/data`` relative
    to the repository *root*.
    """
    folder = Path(os.environ.get("TAPELOOM_CAPTURES") or root / "../shared/data")
    return folder if folder.is_dir() else None
