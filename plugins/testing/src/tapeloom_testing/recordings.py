"""Where real recordings are."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["captures"]


def captures(root: Path) -> Path | None:
    """Return the folder of real recordings, None where there is none.

    It is named by the environment variable TAPELOOM_CAPTURES, and is ``../shared/data`` beside the
    repository *root* otherwise.
    """
    folder = Path(os.environ.get("TAPELOOM_CAPTURES") or root / "../shared/data")
    return folder if folder.is_dir() else None
