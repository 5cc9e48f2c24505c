"""Where data enters: sockets, TLS, the WebSocket handshake, frames and messages; and the HTTP client.

A socket is read in `asyncio_socket` or `sockets`; `frame_decoder` turns its bytes into messages.
`websocket` dials (`handshake`), and is the only user of httpx-ws. `message_assembly` puts fragments
together, `inflate` decompresses. `http_client` sends the requests of `_history`.
"""
