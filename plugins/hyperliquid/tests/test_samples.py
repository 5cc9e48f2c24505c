"""Each message struct of Hyperliquid decodes the sample payload in the comment above it."""

from __future__ import annotations

import pytest
from tapeloom_testing.samples import check_sample, samples

#: Structs that are only encoded, for requests.
WITHOUT = {"_RequestBody", "_BarsSpan"}
SAMPLES = samples(
    "tapeloom_hyperliquid.bars",
    "tapeloom_hyperliquid.codec",
    "tapeloom_hyperliquid.dedup",
    "tapeloom_hyperliquid.history",
    "tapeloom_hyperliquid.wire",
    without=WITHOUT,
)


@pytest.mark.parametrize(
    ("struct", "sample"), SAMPLES, ids=[struct.__name__ for struct, _ in SAMPLES]
)
def test_every_message_struct_decodes_the_sample_above_it(struct, sample) -> None:
    check_sample(struct, sample)
