"""Makes a real sink fail as a remote store does. Nothing of the sink is replaced: each call is passed on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, Literal

from tapeloom.errors import SinkUnavailable
from tapeloom.plugin import Sink, SinkBatch

__all__ = ["Fault", "FaultySink", "in_threads"]

#: Which call fails.
#: acknowledgement: `write` stores the batch and then raises: the answer of the store was lost.
#: request: `write` raises before the sink is called: the batch did not reach the store.
#: opening: `open` opens the store and then raises.
Fault = Literal["acknowledgement", "request", "opening"]
#: The most faults of one sink: one that makes no progress between two of them comes to an end.
_MAX_FAULTS = 40


class FaultySink:
    """A sink of which every *every*-th call fails with SinkUnavailable; 0: none.

    `positions` are those of the batches that it was given and that reached the store, the newest of each key.
    """

    def __init__(self, sink: Sink, fault: Fault = "request", every: int = 0) -> None:
        self.guarantee = sink.guarantee
        self.positions: dict[str, str] = {}
        self.faults = 0  #: number of calls that failed
        self._fault, self._every = fault, every
        self._calls = 0
        self.open = _around(sink.open, _nothing, self._after_open)
        self.write = _around(sink.write, self._before_write, self._after_write)
        self.close = sink.close

    def _after_open(self, _: Any) -> None:
        if self._fault == "opening":
            self._count_call("the answer to `open` was lost")

    def _before_write(self, _: SinkBatch) -> None:
        if self._fault == "request":
            self._count_call("the batch did not reach the store")

    def _after_write(self, batch: SinkBatch) -> None:
        self.positions.update(batch.positions)
        if self._fault == "acknowledgement":
            self._count_call("the acknowledgement of a stored batch was lost")

    def _count_call(self, text: str) -> None:
        self._calls += 1
        if self._every and self._calls % self._every == 0 and self.faults < _MAX_FAULTS:
            self.faults += 1
            raise SinkUnavailable(f"Injected by the contract: {text}.")


def in_threads(sink: Sink, pools: Sequence[Executor]) -> Sink:
    """Return *sink* with its plain methods `open`, `write` and `close` called by a pool each."""
    apart = FaultySink(sink)
    for name, pool in zip(("open", "write", "close"), pools, strict=True):
        method = getattr(sink, name)
        if not inspect.iscoroutinefunction(method):
            setattr(apart, name, _in_pool(pool, method))
    return apart


def _nothing(_: Any) -> None:
    pass


def _around(method: Callable[..., Any], before: Any, after: Any) -> Callable[..., Any]:
    """Return *method*, async or plain as it is, with calls before and after it."""
    if inspect.iscoroutinefunction(method):

        async def call_async(argument: Any) -> Any:
            before(argument)
            result = await method(argument)
            after(argument)
            return result

        return call_async

    def call(argument: Any) -> Any:
        before(argument)
        result = method(argument)
        after(argument)
        return result

    return call


def _in_pool(pool: Executor, method: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        return pool.submit(method, *arguments).result()

    return call
