"""The keys of ``[cluster]``."""

from __future__ import annotations

from attrs import field, frozen
from attrs.validators import ge, le, matches_re
from tapeloom.units import duration_ns

__all__ = ["Settings"]

#: A shorter lease ends at each short stall of NATS; the server expires no entry in less than a second.
_MIN_LEASE = 2_000_000_000
_KEY = r"[A-Za-z0-9_-]*"


@frozen(kw_only=True)
class Settings:
    """The keys of ``[cluster]`` with ``use = "cluster"``. Durations are stored in nanoseconds."""

    #: Name of the sink that publishes what the nodes stream; default: the only one of `tapeloom-nats`.
    sink: str = ""
    #: Name of the key-value bucket with the leases; it is created if it does not exist.
    bucket: str = field(default="tapeloom_cluster", validator=matches_re(_KEY[:-1] + "+"))
    #: Number of nodes that stream each symbol at the same time.
    replicas: int = field(default=1, validator=[ge(1), le(4)])
    #: Time after which other nodes take over what a node streams that does not answer.
    lease: int = field(default=10_000_000_000, converter=duration_ns, validator=ge(_MIN_LEASE))
    #: Name of this node, unique in the cluster; default: the environment variable TAPELOOM_NODE, or else
    #: the name of the machine.
    node: str = field(default="", validator=matches_re(_KEY))
