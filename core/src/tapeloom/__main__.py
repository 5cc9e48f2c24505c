"""Run the command line with ``python -m tapeloom``."""

from __future__ import annotations

import sys

from tapeloom.cli._main import main

sys.exit(main())
