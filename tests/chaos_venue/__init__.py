"""A venue that shares no code with tapeloom: its own WebSocket framing, market, wire formats and faults.

`framing` is the server's side of RFC 6455 and HTTP, `market` makes the trades and keeps them as the
truth, `wires` has what Binance, Bybit and Hyperliquid send and answer, `venue` is the server, `faults`
what goes wrong, `ledger` compares what a stream delivered with the truth. These import only the
standard library and each other. `runs` streams from the venue with tapeloom, as a user does.
"""
