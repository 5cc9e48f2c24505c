"""Each message struct of Alpaca decodes the sample payload in the comment above it."""

from __future__ import annotations

import pytest
from tapeloom_testing.samples import check_sample, samples

#: The base class of the items.
WITHOUT = {"ItemMessage"}
SAMPLES = samples(
    "tapeloom_alpaca.codec", "tapeloom_alpaca.history", "tapeloom_alpaca.wire", without=WITHOUT
)


@pytest.mark.parametrize(
    ("struct", "sample"), SAMPLES, ids=[struct.__name__ for struct, _ in SAMPLES]
)
def test_every_message_struct_decodes_the_sample_above_it(struct, sample) -> None:
    check_sample(struct, sample)
