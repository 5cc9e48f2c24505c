"""The garbage collector, made to look less often while a stream runs."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def gc_tuned(threshold: int) -> Iterator[None]:
    """Leave alone what is there by now, and look only after *threshold* new objects; 0: as before.

    Events have no cycles: they go when nobody holds them any more, without the collector. Whoever
    keeps many of them has it look through all of them again and again, for nothing.
    """
    if not threshold:
        yield
        return
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(threshold, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
