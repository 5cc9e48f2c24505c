"""One client of the simulated gateway: the answers to its requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tapeloom.units import Rate
from tapeloom_simulator.server_api import ConnectionRules

from .history import bars, ticks
from .streams import (
    BarStream,
    ClientStream,
    DepthStream,
    Level1Stream,
    QuoteStream,
    TradeStream,
    error,
    message,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tapeloom_simulator.server_api import ClientConnection, Market, SimulatedInstrument

__all__ = ["Client", "Gateway"]

#: The protocol version that the gateway and the client agree on.
_VERSION = "178"
#: How long a lost connection takes to be restored, in the venue's time.
_OUTAGE_SECONDS = 5.0
_ACCOUNT = "DU1234567"
#: Streams of an account with 100 lines by kind. Trades and quotes count together.
_LIMITS = {"trades": 5, "quotes": 5, "book": 3}
#: Number of market data lines of the account.
_LINES = 100
#: The contract id of the first instrument.
_FIRST_ID = 265_598
#: A pair of two currencies of IDEALPRO is listed as CASH, a coin of PAXOS as CRYPTO, other spot as STK.
_IDEALPRO = {
    "USD", "EUR", "GBP", "JPY", "CHF", "CAD", "AUD", "NZD", "CNH", "HKD", "KRW", "SGD",
    "SEK", "NOK", "DKK", "CZK", "HUF", "PLN", "RON", "ILS", "MXN", "TRY", "ZAR",
}  # fmt: skip
_PAXOS = {"BTC", "ETH", "LTC", "BCH", "SOL", "ADA", "XRP", "DOGE", "AVAX", "LINK"}
#: The notices that a new client is sent: its data farms are connected.
_FARMS_CONNECTED = (
    (2104, "Market data farm connection is OK:usfarm"),
    (2106, "HMDS data farm connection is OK:ushmds"),
    (2158, "Sec-def data farm connection is OK:secdefnj"),
)
#: The text of code 1100.
_LOST = "Connectivity between IBKR and Trader Workstation has been lost."


def _security_type(instrument: SimulatedInstrument) -> str:
    parts = instrument.parsed_symbol
    if parts.settle:
        return "FUT" if parts.expiry else "CONTFUT"
    if {parts.base, parts.quote} <= _IDEALPRO:
        return "CASH"
    return "CRYPTO" if parts.base in _PAXOS else "STK"


class Gateway:
    """The state that clients share: the market, its contracts by id, and the clients."""

    def __init__(self, market: Market) -> None:
        self.market = market
        self.contracts = dict(enumerate(market.instruments.values(), _FIRST_ID))
        self.clients: list[Client] = []


class Client:
    """One client of the gateway."""

    rules = ConnectionRules(message_rate=Rate(50, 1.0))

    def __init__(self, gateway: Gateway, line: ClientConnection) -> None:
        self.gateway, self.line = gateway, line
        self.client_id = ""
        self.disconnected = False  #: whether the gateway has lost its servers
        self.data_type = "1"  #: the number of the market data type: live, frozen, delayed
        self.streams: dict[str, ClientStream] = {}  # by request id
        self._greeted = False
        self._handlers: dict[str, Callable[[list[str]], list[str]]] = {
            "1": self._level_1,
            "2": lambda fields: self._cancel(fields[2]),
            "5": lambda fields: [message(53, 1)],
            "6": lambda fields: [message(54, 1, _ACCOUNT)],
            "7": lambda fields: [message(55, 1, fields[2])],
            "9": self._details,
            "10": self._depth,
            "11": lambda fields: self._cancel(fields[2]),
            "20": self._past_bars,
            "49": self._time,
            "50": self._bars,
            "51": lambda fields: self._cancel(fields[2]),
            "59": self._data_type,
            "61": lambda fields: [message(62, 1)],
            "62": lambda fields: [message(64, 1, fields[2])],
            "63": lambda fields: [],
            "71": self._start,
            "76": lambda fields: [message(74, 1, fields[2])],
            "82": self._exchanges,
            "91": self._rule,
            "96": self._past_ticks,
            "97": self._ticks,
            "98": lambda fields: self._cancel(fields[1]),
            "99": lambda fields: [message(102)],
        }

    # ------------------------------------------------------------------------------------ messages

    def opening_messages(self) -> Sequence[str]:
        """Return nothing: the client sends the first message."""
        return ()

    def receive(self, text: str) -> Sequence[str]:
        """Return the answer to a message."""
        if not self._greeted:
            self._greeted = True
            return [message(_VERSION, "20261122 09:30:00 EST")]
        fields = text.split("\0")[:-1]
        handler = self._handlers.get(fields[0]) if fields else None
        if handler is None:
            return [error("-1", 505, "Fatal Error: Unknown message id.")]
        try:
            return handler(fields)
        except (IndexError, ValueError):
            return [
                error(_request(fields), 320, "Server error when reading an API client request.")
            ]

    def refuse(self, text: str) -> Sequence[str]:
        """Return the error for a message that is refused."""
        fields = text.split("\0")[:-1]
        return [error(_request(fields), 321, "Server error when validating an API client request.")]

    def closing_messages(self) -> Sequence[str]:
        """Return nothing: the gateway sends no message before it closes."""
        return ()

    def _start(self, fields: list[str]) -> list[str]:
        client_id = fields[2]
        others = (other for other in self.gateway.clients if other is not self)
        if any(other.client_id == client_id for other in others if other.line.counts_as_open):
            self.line.close(1000, "client id in use")
            return [error("-1", 326, "Unable to connect as the client id is already in use.")]
        self.client_id = client_id
        greeting = [error("-1", code, text) for code, text in _FARMS_CONNECTED]
        return [message(15, 1, _ACCOUNT), message(9, 1, 1), *greeting]

    def _time(self, fields: list[str]) -> list[str]:
        return [message(49, 1, self.gateway.market.venue_clock // 1_000_000_000)]

    def _data_type(self, fields: list[str]) -> list[str]:
        self.data_type = fields[2]
        return []

    # ----------------------------------------------------------------------------------- contracts

    def _matching_instruments(self, contract: list[str]) -> list[tuple[int, SimulatedInstrument]]:
        con_id, symbol, kind, expiry = contract[:4]
        exchange, currency, local = contract[7], contract[9], contract[10]
        found = []
        for listed_id, instrument in self.gateway.contracts.items():
            parts = instrument.parsed_symbol
            if con_id not in ("", "0"):
                matches = con_id == str(listed_id)
            else:
                matches = (
                    (
                        symbol.replace(" ", ".") == parts.base
                        or bool(local and local == _local_symbol(instrument))
                    )
                    and currency in ("", parts.quote)
                    and kind in ("", _security_type(instrument))
                    and f"20{parts.expiry}".startswith(expiry or "20")
                    and exchange != "NOWHERE"
                )
            if matches:
                found.append((listed_id, instrument))
        return found

    def _details(self, fields: list[str]) -> list[str]:
        request, found = fields[2], self._matching_instruments(fields[3:])
        if not found:
            return [error(request, 200, "No security definition has been found for the request")]
        return [
            *(_contract_details(request, con_id, instrument) for con_id, instrument in found),
            message(52, 1, request),
        ]

    def _instrument(
        self, request: str, contract: list[str]
    ) -> tuple[SimulatedInstrument | None, list[str]]:
        found = self._matching_instruments(contract)
        if len(found) == 1:
            return found[0][1], []
        return None, [error(request, 200, "The contract description specified is ambiguous.")]

    # -------------------------------------------------------------------------------- subscriptions

    def _subscribe(
        self,
        request: str,
        contract: list[str],
        make_stream: Callable[[SimulatedInstrument], ClientStream],
    ) -> list[str]:
        instrument, problem = self._instrument(request, contract)
        if instrument is None:
            return problem
        if request in self.streams:
            return [error(request, 102, "Duplicate ticker ID.")]
        stream = make_stream(instrument)
        # All clients share the limits of the account.
        clients = [client for client in self.gateway.clients if client.line.counts_as_open]
        kinds = [used.kind_name for client in clients for used in client.streams.values()]
        ticks = kinds.count("trades") + kinds.count("quotes")
        if len(kinds) >= _LINES:
            return [error(request, 101, "Max number of tickers has been reached.")]
        if stream.kind_name in ("trades", "quotes") and ticks >= _LIMITS[stream.kind_name]:
            return [error(request, 10190, "Max number of tick-by-tick requests has been reached.")]
        if stream.kind_name == "book" and kinds.count("book") >= _LIMITS["book"]:
            return [
                error(request, 309, "Max number (3) of market depth requests has been reached.")
            ]
        self.streams[request] = stream
        self.line.subscribe(stream)
        return stream.first()

    def _cancel(self, request: str) -> list[str]:
        stream = self.streams.pop(request, None)
        if stream is None:
            return [error(request, 300, f"Can't find EId with tickerId:{request}")]
        self.line.unsubscribe(stream)
        return []

    def _ticks(self, fields: list[str]) -> list[str]:
        request, kind = fields[1], fields[14]
        stream_class = {"Last": TradeStream, "AllLast": TradeStream, "BidAsk": QuoteStream}.get(
            kind
        )
        if stream_class is None:
            return [error(request, 321, f"Server error when validating: tick type {kind}.")]
        return self._subscribe(
            request,
            fields[2:14],
            lambda instrument: stream_class(
                self, request, instrument, "2" if kind == "AllLast" else "1"
            ),
        )

    def _bars(self, fields: list[str]) -> list[str]:
        request, size, shown = fields[2], fields[15], fields[16]
        instrument, problem = self._instrument(request, fields[3:15])
        if instrument is None:
            return problem
        if size != "5":
            return [error(request, 321, "Server error when validating: bar size must be 5.")]
        if _security_type(instrument) == "CRYPTO" and shown == "TRADES":
            return [error(request, 10299, "Expected what to show is AGGTRADES, please use that.")]
        if _security_type(instrument) == "CASH" and shown in ("TRADES", "AGGTRADES"):
            return [error(request, 162, "Historical Market Data Service error: no TRADES.")]
        return self._subscribe(
            request, fields[3:15], lambda instrument: BarStream(self, request, instrument, shown)
        )

    def _depth(self, fields: list[str]) -> list[str]:
        request, rows, smart = fields[2], int(fields[15]), fields[16] == "1"
        if fields[10] == "SMART" and not smart:
            return [
                error(request, 10092, "Deep market data is not supported for this combination.")
            ]
        return self._subscribe(
            request,
            fields[3:15],
            lambda instrument: DepthStream(self, request, instrument, rows, smart=smart),
        )

    def _level_1(self, fields: list[str]) -> list[str]:
        request = fields[2]
        return self._subscribe(
            request,
            fields[3:15],
            lambda instrument: Level1Stream(self, request, instrument, self.data_type),
        )

    # ------------------------------------------------------------------------------------- history

    def _past_ticks(self, fields: list[str]) -> list[str]:
        """Answer reqHistoricalTicks with trades; fields 2 to 13 are the contract."""
        request, start, limit = fields[1], fields[15], fields[17]
        instrument, problem = self._instrument(request, fields[2:14])
        return problem if instrument is None else ticks(request, instrument, start, int(limit))

    def _past_bars(self, fields: list[str]) -> list[str]:
        request = fields[1]
        instrument, problem = self._instrument(request, fields[2:14])
        if instrument is None:
            return problem
        return bars(request, instrument, self.gateway.market.now, fields[16], fields[17])

    def _rule(self, fields: list[str]) -> list[str]:
        ticks = [instrument.tick for instrument in self.gateway.contracts.values()]
        index = int(fields[1]) - 1
        return [message(93, fields[1], 1, 0, ticks[index])] if 0 <= index < len(ticks) else []

    def _exchanges(self, fields: list[str]) -> list[str]:
        return [message(80, 1, "NASDAQ", "STK", "NASDAQ", "Deep2", 1)]

    # --------------------------------------------------------------------------------------- faults

    def corrupt(self, fault: str, stream: ClientStream, text: str) -> list[str] | None:
        """Return the messages that a fault makes of *text*; None if it does not apply."""
        request = stream.request
        match fault:
            case "ib_1100" | "ib_1101" | "ib_1102":
                return self._lose_connection(fault)
            case "ib_2103":
                self.disconnected = True
                self.line.call_later(
                    _OUTAGE_SECONDS, lambda: self._restored(2104, _FARMS_CONNECTED[0][1])
                )
                return [error("-1", 2103, "Market data farm connection is broken:usfarm")]
            case "ib_317" if isinstance(stream, DepthStream):
                reset = "Market depth data has been RESET. Please empty deep book contents."
                return [error(request, 317, reset), *stream.first()]
            case "ib_10225":
                return self._ended(
                    stream, 10225, "Bust event occurred, current subscription ended."
                )
            case "ib_10197":
                return self._ended(stream, 10197, "No market data during competing live session")
            case "ib_halt" | "ib_sentinel" | "missing_fields":
                return stream.corrupt(fault, text)
            case "empty_side" if isinstance(stream, QuoteStream):
                return stream.corrupt(fault, text)
        return None

    def _lose_connection(self, fault: str) -> list[str]:
        self.disconnected = True
        if fault == "ib_1102":
            self.line.call_later(
                _OUTAGE_SECONDS,
                lambda: self._restored(1102, "Connectivity restored, data maintained."),
            )
        elif fault == "ib_1101":
            self.line.call_later(_OUTAGE_SECONDS, self._restored_without_data)
        return [error("-1", 1100, _LOST)]

    def _restored(self, code: int, text: str) -> list[str]:
        self.disconnected = False
        return [error("-1", code, text)]

    def _restored_without_data(self) -> list[str]:
        for request in list(self.streams):
            self._cancel(request)
        return self._restored(1101, "Connectivity restored, data lost.")

    def _ended(self, stream: ClientStream, code: int, text: str) -> list[str]:
        stream.ended = True
        # Cancel later: the simulator is iterating over the followers of the stream now.
        self.line.call_later(0, lambda: self._cancel(stream.request) and [])
        return [error(stream.request, code, text)]


def _request(fields: list[str]) -> str:
    """Return the request id of a client's message."""
    index = 1 if fields and fields[0] in ("20", "96", "97", "98", "91") else 2
    return fields[index] if len(fields) > index and fields[index].isdigit() else "-1"


def _local_symbol(instrument: SimulatedInstrument) -> str:
    parts = instrument.parsed_symbol
    return f"{parts.base}.{parts.quote}" if _security_type(instrument) == "CASH" else parts.base


def _contract_details(request: str, con_id: int, instrument: SimulatedInstrument) -> str:
    """Return the details of a contract. The client expects exactly this number of fields."""
    parts, kind = instrument.parsed_symbol, _security_type(instrument)
    exchange = {"CASH": "IDEALPRO", "CRYPTO": "PAXOS", "FUT": "CME", "CONTFUT": "CME"}.get(
        kind, "SMART"
    )
    primary = "NASDAQ" if kind == "STK" else ""
    expiry = f"20{parts.expiry}" if parts.expiry else ""
    hours = "20261123:0930-20261123:1600"
    return message(
        10, request, parts.base.replace(".", " "), kind, expiry, 0, "", exchange, parts.quote,
        _local_symbol(instrument), parts.base, parts.base, con_id, instrument.tick, "", "LMT", exchange, 1, 0, parts.base,
        primary, expiry[:6], "", "", "", "US/Eastern", hours, hours, "", 0, 0, 1, "", "",
        con_id - _FIRST_ID + 1, expiry, "COMMON" if kind == "STK" else "", instrument.lot, instrument.lot, 100,
    )  # fmt: skip
