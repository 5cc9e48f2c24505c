"""Import every module of an installed package, except the simulated server side of a venue.

``python -I tests/import_package.py tapeloom_binance`` does so; ``nox -s package`` runs it where
nothing is installed but core and the package.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path


def modules(folder: Path) -> list[str]:
    """Return the names of the modules of a package."""
    found = []
    for file in sorted(folder.rglob("*.py")):
        parts = [folder.name, *file.relative_to(folder).with_suffix("").parts]
        if parts[1] != "simulator" and parts[-1] != "__main__":
            found.append(".".join(parts).removesuffix(".__init__"))
    return found


def main(package: str) -> None:
    spec = importlib.util.find_spec(package)
    assert spec is not None, f"{package} is not installed"
    assert spec.origin is not None
    folder = Path(spec.origin).parent
    names = modules(folder)
    for name in names:
        importlib.import_module(name)

    assert (folder / "py.typed").is_file(), f"{package} has no py.typed: type checkers ignore it"
    print(f"{package}: {len(names)} modules imported")


if __name__ == "__main__":
    main(sys.argv[1])
