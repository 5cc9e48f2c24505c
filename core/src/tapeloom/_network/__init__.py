"""Sockets, TLS, the WebSocket handshake, frames and messages; and the HTTP client.

Data enters here: `asyncio_socket` or `sockets` reads a socket, and `frame_decoder` turns its bytes into
messages. `message_assembly` joins fragments, and `inflate` decompresses. `websocket` dials, with the
checks in `handshake`; it is the only user of httpx-ws. `http_client` sends the requests of `_history`.
"""
