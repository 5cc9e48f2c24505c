"""One client of the simulated gateway: what it asks, and what it is answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tapeloom.units import Rate
from tapeloom_simulator.server_api import ConnectionRules

from .history import bars, ticks
from .streams import Bars, Depth, Feedline, Quotes, Top, Trades, error, joined

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tapeloom_simulator.server_api import ClientConnection, Market, SimulatedInstrument

__all__ = ["Client", "Gateway"]

_VERSION = "178"
_OUTAGE = 5.0  # the venue's seconds
_ACCOUNT = "DU1234567"
_LIMITS = {"trades": 5, "quotes": 5, "book": 3}  # of an account with 100 lines; ticks are one kind
_LINES = 100
_FIRST_ID = 265_598
#: Two currencies of IDEALPRO are listed as CASH, a coin of PAXOS as CRYPTO, other spot as STK.
_IDEALPRO = {
    "USD", "EUR", "GBP", "JPY", "CHF", "CAD", "AUD", "NZD", "CNH", "HKD", "KRW", "SGD",
    "SEK", "NOK", "DKK", "CZK", "HUF", "PLN", "RON", "ILS", "MXN", "TRY", "ZAR",
}  # fmt: skip
_PAXOS = {"BTC", "ETH", "LTC", "BCH", "SOL", "ADA", "XRP", "DOGE", "AVAX", "LINK"}
_OK = (
    (2104, "Market data farm connection is OK:usfarm"),
    (2106, "HMDS data farm connection is OK:ushmds"),
    (2158, "Sec-def data farm connection is OK:secdefnj"),
)
_LOST = "Connectivity between IBKR and Trader Workstation has been lost."


def _kind(pit: SimulatedInstrument) -> str:
    parts = pit.parsed_symbol
    if parts.settle:
        return "FUT" if parts.expiry else "CONTFUT"
    if {parts.base, parts.quote} <= _IDEALPRO:
        return "CASH"
    return "CRYPTO" if parts.base in _PAXOS else "STK"


class Gateway:
    """What the clients share: the market, its contracts, and each other."""

    def __init__(self, market: Market) -> None:
        self.market = market
        self.contracts = dict(enumerate(market.instruments.values(), _FIRST_ID))
        self.clients: list[Client] = []


class Client:
    """One client."""

    rules = ConnectionRules(message_rate=Rate(50, 1.0))

    def __init__(self, gateway: Gateway, line: ClientConnection) -> None:
        self.gateway, self.line = gateway, line
        self.number = ""
        self.muted = False  #: the gateway has lost its servers
        self.kind = "1"  #: of market data: live, frozen, delayed
        self.streams: dict[str, Feedline] = {}  # by request id
        self._greeted = False
        self._answers: dict[str, Callable[[list[str]], list[str]]] = {
            "1": self._level_1,
            "2": lambda fields: self._drop(fields[2]),
            "5": lambda fields: [joined(53, 1)],
            "6": lambda fields: [joined(54, 1, _ACCOUNT)],
            "7": lambda fields: [joined(55, 1, fields[2])],
            "9": self._details,
            "10": self._depth,
            "11": lambda fields: self._drop(fields[2]),
            "20": self._past_bars,
            "49": self._time,
            "50": self._bars,
            "51": lambda fields: self._drop(fields[2]),
            "59": self._data_type,
            "61": lambda fields: [joined(62, 1)],
            "62": lambda fields: [joined(64, 1, fields[2])],
            "63": lambda fields: [],
            "71": self._start,
            "76": lambda fields: [joined(74, 1, fields[2])],
            "82": self._exchanges,
            "91": self._rule,
            "96": self._past_ticks,
            "97": self._ticks,
            "98": lambda fields: self._drop(fields[1]),
            "99": lambda fields: [joined(102)],
        }

    # -------------------------------------------------------------------------------- the dialogue

    def opening_messages(self) -> Sequence[str]:
        """Return nothing: the client begins."""
        return ()

    def receive(self, text: str) -> Sequence[str]:
        """Answer one message."""
        if not self._greeted:
            self._greeted = True
            return [joined(_VERSION, "20261122 09:30:00 EST")]
        fields = text.split("\0")[:-1]
        answer = self._answers.get(fields[0]) if fields else None
        if answer is None:
            return [error("-1", 505, "Fatal Error: Unknown message id.")]
        try:
            return answer(fields)
        except (IndexError, ValueError):
            return [
                error(_request(fields), 320, "Server error when reading an API client request.")
            ]

    def refuse(self, text: str) -> Sequence[str]:
        """Refuse one message."""
        fields = text.split("\0")[:-1]
        return [error(_request(fields), 321, "Server error when validating an API client request.")]

    def closing_messages(self) -> Sequence[str]:
        """Return nothing: it goes without a word."""
        return ()

    def _start(self, fields: list[str]) -> list[str]:
        client = fields[2]
        if any(
            one.number == client
            for one in self.gateway.clients
            if one is not self and one.line.counts_as_open
        ):
            self.line.close(1000, "client id in use")
            return [error("-1", 326, "Unable to connect as the client id is already in use.")]
        self.number = client
        greeting = [error("-1", code, text) for code, text in _OK]
        return [joined(15, 1, _ACCOUNT), joined(9, 1, 1), *greeting]

    def _time(self, fields: list[str]) -> list[str]:
        return [joined(49, 1, self.gateway.market.venue_clock // 1_000_000_000)]

    def _data_type(self, fields: list[str]) -> list[str]:
        self.kind = fields[2]
        return []

    # ----------------------------------------------------------------------------------- contracts

    def _fitting(self, contract: list[str]) -> list[tuple[int, SimulatedInstrument]]:
        con_id, symbol, kind, expiry = contract[:4]
        exchange, currency, local = contract[7], contract[9], contract[10]
        found = []
        for number, pit in self.gateway.contracts.items():
            parts = pit.parsed_symbol
            if con_id not in ("", "0"):
                fits = con_id == str(number)
            else:
                fits = (
                    (symbol.replace(" ", ".") == parts.base or bool(local and local == _local(pit)))
                    and currency in ("", parts.quote)
                    and kind in ("", _kind(pit))
                    and f"20{parts.expiry}".startswith(expiry or "20")
                    and exchange != "NOWHERE"
                )
            if fits:
                found.append((number, pit))
        return found

    def _details(self, fields: list[str]) -> list[str]:
        request, found = fields[2], self._fitting(fields[3:])
        if not found:
            return [error(request, 200, "No security definition has been found for the request")]
        return [
            *(_described(request, number, pit) for number, pit in found),
            joined(52, 1, request),
        ]

    def _pit(
        self, request: str, contract: list[str]
    ) -> tuple[SimulatedInstrument | None, list[str]]:
        found = self._fitting(contract)
        if len(found) == 1:
            return found[0][1], []
        return None, [error(request, 200, "The contract description specified is ambiguous.")]

    # -------------------------------------------------------------------------------- subscriptions

    def _follow(
        self, request: str, contract: list[str], make: Callable[[SimulatedInstrument], Feedline]
    ) -> list[str]:
        pit, problem = self._pit(request, contract)
        if pit is None:
            return problem
        if request in self.streams:
            return [error(request, 102, "Duplicate ticker ID.")]
        stream = make(pit)
        # The account's limits are shared by all who use it.
        users = [one for one in self.gateway.clients if one.line.counts_as_open]
        words = [one.word for user in users for one in user.streams.values()]
        ticks = words.count("trades") + words.count("quotes")
        if len(words) >= _LINES:
            return [error(request, 101, "Max number of tickers has been reached.")]
        if stream.word in ("trades", "quotes") and ticks >= _LIMITS[stream.word]:
            return [error(request, 10190, "Max number of tick-by-tick requests has been reached.")]
        if stream.word == "book" and words.count("book") >= _LIMITS["book"]:
            return [
                error(request, 309, "Max number (3) of market depth requests has been reached.")
            ]
        self.streams[request] = stream
        self.line.subscribe(stream)
        return stream.first()

    def _drop(self, request: str) -> list[str]:
        stream = self.streams.pop(request, None)
        if stream is None:
            return [error(request, 300, f"Can't find EId with tickerId:{request}")]
        self.line.unsubscribe(stream)
        return []

    def _ticks(self, fields: list[str]) -> list[str]:
        request, kind = fields[1], fields[14]
        made = {"Last": Trades, "AllLast": Trades, "BidAsk": Quotes}.get(kind)
        if made is None:
            return [error(request, 321, f"Server error when validating: tick type {kind}.")]
        return self._follow(
            request,
            fields[2:14],
            lambda pit: made(self, request, pit, "2" if kind == "AllLast" else "1"),
        )

    def _bars(self, fields: list[str]) -> list[str]:
        request, size, what = fields[2], fields[15], fields[16]
        pit, problem = self._pit(request, fields[3:15])
        if pit is None:
            return problem
        if size != "5":
            return [error(request, 321, "Server error when validating: bar size must be 5.")]
        if _kind(pit) == "CRYPTO" and what == "TRADES":
            return [error(request, 10299, "Expected what to show is AGGTRADES, please use that.")]
        if _kind(pit) == "CASH" and what in ("TRADES", "AGGTRADES"):
            return [error(request, 162, "Historical Market Data Service error: no TRADES.")]
        return self._follow(request, fields[3:15], lambda pit: Bars(self, request, pit, what))

    def _depth(self, fields: list[str]) -> list[str]:
        request, rows, smart = fields[2], int(fields[15]), fields[16] == "1"
        if fields[10] == "SMART" and not smart:
            return [
                error(request, 10092, "Deep market data is not supported for this combination.")
            ]
        return self._follow(
            request, fields[3:15], lambda pit: Depth(self, request, pit, rows, smart=smart)
        )

    def _level_1(self, fields: list[str]) -> list[str]:
        request = fields[2]
        return self._follow(request, fields[3:15], lambda pit: Top(self, request, pit, self.kind))

    # ------------------------------------------------------------------------------------- the past

    def _past_ticks(self, fields: list[str]) -> list[str]:
        request = fields[1]
        pit, problem = self._pit(request, fields[2:14])
        return problem if pit is None else ticks(request, pit, fields[15], int(fields[17]))

    def _past_bars(self, fields: list[str]) -> list[str]:
        request = fields[1]
        pit, problem = self._pit(request, fields[2:14])
        if pit is None:
            return problem
        return bars(request, pit, self.gateway.market.now, fields[16], fields[17])

    def _rule(self, fields: list[str]) -> list[str]:
        ticks = [pit.tick for pit in self.gateway.contracts.values()]
        place = int(fields[1]) - 1
        return [joined(93, fields[1], 1, 0, ticks[place])] if 0 <= place < len(ticks) else []

    def _exchanges(self, fields: list[str]) -> list[str]:
        return [joined(80, 1, "NASDAQ", "STK", "NASDAQ", "Deep2", 1)]

    # --------------------------------------------------------------------------------------- faults

    def corrupt(self, fault: str, stream: Feedline, text: str) -> list[str] | None:
        """Return what is said in place of *text*; None where the fault does not apply."""
        request = stream.request
        match fault:
            case "ib_1100" | "ib_1101" | "ib_1102":
                return self._lose(fault)
            case "ib_2103":
                self.muted = True
                self.line.call_later(_OUTAGE, lambda: self._back(2104, _OK[0][1]))
                return [error("-1", 2103, "Market data farm connection is broken:usfarm")]
            case "ib_317" if isinstance(stream, Depth):
                reset = "Market depth data has been RESET. Please empty deep book contents."
                return [error(request, 317, reset), *stream.first()]
            case "ib_10225":
                return self._ended(
                    stream, 10225, "Bust event occurred, current subscription ended."
                )
            case "ib_10197":
                return self._ended(stream, 10197, "No market data during competing live session")
            case "ib_halt" | "ib_sentinel" | "missing_fields":
                return stream.odd(fault, text)
        return None

    def _lose(self, fault: str) -> list[str]:
        self.muted = True
        if fault == "ib_1102":
            self.line.call_later(
                _OUTAGE, lambda: self._back(1102, "Connectivity restored, data maintained.")
            )
        elif fault == "ib_1101":
            self.line.call_later(_OUTAGE, self._back_empty)
        return [error("-1", 1100, _LOST)]

    def _back(self, code: int, text: str) -> list[str]:
        self.muted = False
        return [error("-1", code, text)]

    def _back_empty(self) -> list[str]:
        for request in list(self.streams):
            self._drop(request)
        return self._back(1101, "Connectivity restored, data lost.")

    def _ended(self, stream: Feedline, code: int, text: str) -> list[str]:
        stream.ended = True
        # Not now: the simulator is speaking to those who follow it.
        self.line.call_later(0, lambda: self._drop(stream.request) and [])
        return [error(stream.request, code, text)]


def _request(fields: list[str]) -> str:
    """Return the request id of a client's message."""
    place = 1 if fields and fields[0] in ("20", "96", "97", "98", "91") else 2
    return fields[place] if len(fields) > place and fields[place].isdigit() else "-1"


def _local(pit: SimulatedInstrument) -> str:
    parts = pit.parsed_symbol
    return f"{parts.base}.{parts.quote}" if _kind(pit) == "CASH" else parts.base


def _described(request: str, number: int, pit: SimulatedInstrument) -> str:
    """Return contract details; the number of the fields must be right to the last one."""
    parts, kind = pit.parsed_symbol, _kind(pit)
    exchange = {"CASH": "IDEALPRO", "CRYPTO": "PAXOS", "FUT": "CME", "CONTFUT": "CME"}.get(
        kind, "SMART"
    )
    primary = "NASDAQ" if kind == "STK" else ""
    expiry = f"20{parts.expiry}" if parts.expiry else ""
    hours = "20261123:0930-20261123:1600"
    return joined(
        10, request, parts.base.replace(".", " "), kind, expiry, 0, "", exchange, parts.quote,
        _local(pit), parts.base, parts.base, number, pit.tick, "", "LMT", exchange, 1, 0, parts.base,
        primary, expiry[:6], "", "", "", "US/Eastern", hours, hours, "", 0, 0, 1, "", "",
        number - _FIRST_ID + 1, expiry, "COMMON" if kind == "STK" else "", pit.lot, pit.lot, 100,
    )  # fmt: skip
