"""Makes the garbage collector run less often while a stream is open."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def gc_tuned(threshold: int) -> Iterator[None]:
    """Freeze existing objects and collect only after *threshold* new ones; 0: change nothing.

    Events have no reference cycles: they are freed without the collector. An application that keeps
    many events would otherwise have the collector visit all of them again and again, in vain.
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
