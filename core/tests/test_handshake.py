"""What a server may answer to the opening handshake, by itself and through the dialer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.abc
import httpx
import pytest
from tapeloom._network.handshake import OFFER, HandshakeError, agreed
from tapeloom._network.websocket import dialer
from tapeloom.errors import ConnectionFailed
from tapeloom.plugin import Endpoint
from wsproto.utilities import generate_accept_token

#: RFC 6455 §1.3.
KEY, ACCEPT = "dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
OFFERED = next(iter(OFFER.values()))


def answered(extensions: str | None = None, *, offer: str = OFFERED) -> object:
    asked = {"sec-websocket-key": KEY, "sec-websocket-extensions": offer}
    answer = {"sec-websocket-accept": ACCEPT}
    if extensions is not None:
        answer["sec-websocket-extensions"] = extensions
    return agreed(asked, answer)


@pytest.mark.parametrize("extensions", [None, "", " "])
def test_a_server_need_not_take_the_offer(extensions: str | None) -> None:
    assert answered(extensions) is None


@pytest.mark.parametrize(
    ("extensions", "forget"),
    [
        ("permessage-deflate", False),
        ("Permessage-Deflate", False),
        ("permessage-deflate; server_no_context_takeover", True),
        ("permessage-deflate;client_no_context_takeover", False),
        ("permessage-deflate; server_max_window_bits=8; client_max_window_bits=15", False),
        ('permessage-deflate; server_max_window_bits="10"', False),
        ("permessage-deflate ; server_max_window_bits = 9 ; server_no_context_takeover", True),
    ],
)
def test_what_the_rfc_allows_is_agreed_to(extensions: str, forget: bool) -> None:
    inflate = answered(extensions)

    assert inflate is not None
    assert inflate._forget is forget  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "extensions",
    [
        "permessage-deflate; server_max_window_bits",  # the bits of which window?
        "permessage-deflate; client_max_window_bits",
        "permessage-deflate; server_max_window_bits=7",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=09",
        "permessage-deflate; server_max_window_bits=",
        'permessage-deflate; server_max_window_bits="',
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; server_no_context_takeover=",
        "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        "permessage-deflate; more",
        "permessage-deflate;",
        "permessage-deflate, permessage-deflate",
        "permessage-deflate, x-webkit-deflate-frame",
        "x-webkit-deflate-frame",
    ],
)
def test_what_was_not_offered_or_makes_no_sense_is_refused(extensions: str) -> None:
    with pytest.raises(HandshakeError, match="accepted"):
        answered(extensions)


@pytest.mark.parametrize(
    ("extensions", "offer"),
    [
        ("permessage-deflate", ""),
        ("permessage-deflate; client_max_window_bits=10", "permessage-deflate"),
    ],
)
def test_a_server_takes_nothing_that_this_client_did_not_offer(extensions: str, offer: str) -> None:
    with pytest.raises(HandshakeError, match="not offered"):
        answered(extensions, offer=offer)


# -------------------------------------------------------------------------------- through the dialer


@asynccontextmanager
async def answering(**headers: str | None) -> AsyncIterator[str]:
    """Switch protocols with these headers beside, or in place of, the right ones."""

    async def serve(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            head = (await stream.receive()).decode()
            lines = (line.partition(": ") for line in head.split("\r\n")[1:-2])
            asked = {name.lower(): value for name, _, value in lines}
            accept = generate_accept_token(asked["sec-websocket-key"].encode()).decode()
            answer: dict[str, str | None] = {
                "upgrade": "websocket",
                "connection": "upgrade",
                "sec_websocket_accept": accept,
                **headers,
            }
            offers.append(asked.get("sec-websocket-extensions", ""))
            said = [f"{k.replace('_', '-')}: {v}" for k, v in answer.items() if v is not None]
            await stream.send("\r\n".join(["HTTP/1.1 101 Switching", *said, "", ""]).encode())
            with anyio.move_on_after(5):
                async for _ in stream:
                    pass

    offers.clear()
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        yield f"ws://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}"
        tasks.cancel_scope.cancel()


offers: list[str] = []


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"sec_websocket_accept": None}, "does not belong to our key"),
        ({"sec_websocket_accept": ACCEPT}, "does not belong to our key"),
        ({"sec_websocket_protocol": "mqtt"}, "subprotocol 'mqtt', which was not offered"),
        ({"sec_websocket_extensions": "permessage-deflate"}, "which was not offered"),
    ],
)
async def test_a_handshake_that_breaks_the_rules_is_permanent_and_says_which(
    headers: dict[str, str | None], words: str
) -> None:
    async with answering(**headers) as url, httpx.AsyncClient(trust_env=False) as client:
        with pytest.raises(ConnectionFailed, match=words) as caught:
            async with dialer(client, "test")(Endpoint(url=url)):
                pass

    assert not caught.value.retryable
    assert offers == [""]


async def test_compression_is_offered_where_it_is_wanted_and_the_way_out_is_named() -> None:
    bad = {"sec_websocket_extensions": "permessage-deflate; level=11"}
    async with answering(**bad) as url, httpx.AsyncClient(trust_env=False) as client:
        with pytest.raises(ConnectionFailed, match=r"level=11.*compression under \[network\]"):
            async with dialer(client, "test", compressed=True)(Endpoint(url=url)):
                pass

    assert offers == [OFFERED]


async def test_a_subprotocol_that_the_venue_asks_for_may_be_chosen() -> None:
    asked = {"Sec-WebSocket-Protocol": "v1.acme, v2.acme"}
    chosen = {"sec_websocket_protocol": "v2.acme"}
    async with (
        answering(**chosen) as url,
        httpx.AsyncClient(trust_env=False) as client,
        dialer(client, "test")(Endpoint(url=url, headers=asked)),
    ):
        pass
