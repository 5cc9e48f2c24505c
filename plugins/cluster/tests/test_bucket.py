"""The bucket of a cluster on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import nats
import pytest
from tapeloom.errors import SinkUnavailable
from tapeloom_cluster.bucket import Bucket, bucket_stream
from tapeloom_cluster.coordinator import Put
from tapeloom_nats import Settings
from tapeloom_testing.services import NatsServer


@pytest.fixture
def server() -> Iterator[NatsServer]:
    with NatsServer() as running:
        yield running


def test_an_entry_that_nobody_listens_to_is_tried_again_and_does_not_end_the_node(
    server: NatsServer,
) -> None:
    """So it is while the bucket has no leader: its server has died, and the others have yet to elect one."""

    async def main() -> None:
        bucket = Bucket(Settings(servers=server.url), "tapeloom_cluster", 10.0)
        await bucket.open()
        client = await nats.connect(server.url)
        await client.jetstream().delete_stream(bucket_stream("tapeloom_cluster"))
        await client.close()
        try:
            await bucket.write([Put("node.a", b"{}", 0)])
        finally:
            await bucket.close()

    with pytest.raises(SinkUnavailable, match="nobody listens"):
        asyncio.run(main())
