"""Each message struct of Binance decodes the sample payload in the comment above it."""

from __future__ import annotations

import pytest
from tapeloom_testing.samples import check_sample, samples

#: Structs that are not decoded from a message of the venue.
WITHOUT = {"TradeMessage"}
MODULES = ["codec", "history", "parser", "wire"]
SAMPLES = samples(*(f"tapeloom_binance.{name}" for name in MODULES), without=WITHOUT)


@pytest.mark.parametrize(
    ("struct", "sample"), SAMPLES, ids=[struct.__name__ for struct, _ in SAMPLES]
)
def test_every_message_struct_decodes_the_sample_above_it(struct, sample) -> None:
    check_sample(struct, sample)
