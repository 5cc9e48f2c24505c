"""The settings of a ``[[sink]]`` with ``use = "web"``: those of the server, and of the page."""

from __future__ import annotations

from attrs import field, frozen
from attrs.validators import ge, le
from tapeloom_serve import Settings as ServerSettings

__all__ = ["Settings"]


@frozen(kw_only=True)
class Settings(ServerSettings):
    """The settings of the page. Durations are stored in nanoseconds."""

    #: Port to listen on; 0: any free one.
    port: int = field(default=8788, validator=[ge(0), le(65535)])
    #: Folder of a Parquet store, from which the candles before the start are read; default: none.
    store: str = ""
