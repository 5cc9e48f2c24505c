"""The checks of the server's response to the opening handshake, called directly and by the dialer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.abc
import httpx
import pytest
from tapeloom._network.handshake import OFFER, HandshakeError, negotiate
from tapeloom._network.websocket import dialer
from tapeloom.errors import ConnectionFailed
from tapeloom.plugin import Endpoint
from wsproto.utilities import generate_accept_token

#: RFC 6455 §1.3.
KEY, ACCEPT = "dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
OFFERED = next(iter(OFFER.values()))


def negotiated(extensions: str | None = None, *, offer: str = OFFERED) -> object:
    request = {"sec-websocket-key": KEY, "sec-websocket-extensions": offer}
    response = {"sec-websocket-accept": ACCEPT}
    if extensions is not None:
        response["sec-websocket-extensions"] = extensions
    return negotiate(request, response)


@pytest.mark.parametrize("extensions", [None, "", " "])
def test_a_server_may_decline_compression(extensions: str | None) -> None:
    assert negotiated(extensions) is None


@pytest.mark.parametrize(
    ("extensions", "no_context_takeover"),
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
def test_valid_parameters_of_permessage_deflate_are_accepted(
    extensions: str, no_context_takeover: bool
) -> None:
    inflate = negotiated(extensions)

    assert inflate is not None
    assert inflate._no_context_takeover is no_context_takeover  # type: ignore[attr-defined]


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
def test_invalid_parameters_of_permessage_deflate_are_rejected(extensions: str) -> None:
    with pytest.raises(HandshakeError, match="accepted"):
        negotiated(extensions)


@pytest.mark.parametrize(
    ("extensions", "offer"),
    [
        ("permessage-deflate", ""),
        ("permessage-deflate; client_max_window_bits=10", "permessage-deflate"),
    ],
)
def test_a_server_may_accept_only_what_was_offered(extensions: str, offer: str) -> None:
    with pytest.raises(HandshakeError, match="not offered"):
        negotiated(extensions, offer=offer)


# -------------------------------------------------------------------------------- through the dialer


@asynccontextmanager
async def serving(**headers: str | None) -> AsyncIterator[str]:
    """Serve a 101 response with these headers added to, or replacing, the valid ones."""

    async def serve(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            head = (await stream.receive()).decode()
            lines = (line.partition(": ") for line in head.split("\r\n")[1:-2])
            request = {name.lower(): value for name, _, value in lines}
            accept = generate_accept_token(request["sec-websocket-key"].encode()).decode()
            response: dict[str, str | None] = {
                "upgrade": "websocket",
                "connection": "upgrade",
                "sec_websocket_accept": accept,
                **headers,
            }
            offers.append(request.get("sec-websocket-extensions", ""))
            response_lines = [
                f"{k.replace('_', '-')}: {v}" for k, v in response.items() if v is not None
            ]
            await stream.send(
                "\r\n".join(["HTTP/1.1 101 Switching", *response_lines, "", ""]).encode()
            )
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
    ("headers", "message"),
    [
        ({"sec_websocket_accept": None}, "does not match our key"),
        ({"sec_websocket_accept": ACCEPT}, "does not match our key"),
        ({"sec_websocket_protocol": "mqtt"}, "subprotocol 'mqtt', which was not offered"),
        ({"sec_websocket_extensions": "permessage-deflate"}, "which was not offered"),
    ],
)
async def test_an_invalid_response_is_permanent_and_names_the_broken_rule(
    headers: dict[str, str | None], message: str
) -> None:
    async with serving(**headers) as url, httpx.AsyncClient(trust_env=False) as client:
        with pytest.raises(ConnectionFailed, match=message) as caught:
            async with dialer(client, "test")(Endpoint(url=url)):
                pass

    assert not caught.value.retryable
    assert offers == [""]


async def test_compression_is_offered_if_configured_and_its_error_names_the_setting() -> None:
    bad = {"sec_websocket_extensions": "permessage-deflate; level=11"}
    async with serving(**bad) as url, httpx.AsyncClient(trust_env=False) as client:
        with pytest.raises(ConnectionFailed, match=r"level=11.*compression under \[network\]"):
            async with dialer(client, "test", compressed=True)(Endpoint(url=url)):
                pass

    assert offers == [OFFERED]


async def test_an_offered_subprotocol_may_be_chosen() -> None:
    request = {"Sec-WebSocket-Protocol": "v1.acme, v2.acme"}
    chosen = {"sec_websocket_protocol": "v2.acme"}
    async with (
        serving(**chosen) as url,
        httpx.AsyncClient(trust_env=False) as client,
        dialer(client, "test")(Endpoint(url=url, headers=request)),
    ):
        pass
