"""The closed sets of words that events carry, each word with its meaning.

Every word has a line ``#: word: meaning`` above its set. `docs/reference/words.md` is made from these lines.
`Gap.cause`, `Gap.state`, `side`, `origin` and the queue policy take no other word. `Status.state` and
`Reject.rule` also take a plugin's own word; core and the official plugins use only the words listed here.
"""

from __future__ import annotations

from typing import Literal

#: The side of the taker of a trade.
#: buy: The taker bought.
#: sell: The taker sold.
Side = Literal["buy", "sell"]

#: Where an event comes from.
#: live: The venue sent it now, over the subscription.
#: history: It is older than the subscription, such as a first snapshot or trades that the venue repeats.
#: backfill: It was requested over REST to fill a gap.
#: built_from_book: It was derived from an order book that a stage maintains.
#: built_from_trades: It was computed from trades by a stage.
#: empty: It is a bar for an interval without a trade.
Origin = Literal["live", "history", "backfill", "built_from_book", "built_from_trades", "empty"]

#: How much of a gap has been filled.
#: open: The gap was found; whether it can be filled is not known yet.
#: filled: Everything that was missing has been delivered.
#: partial: A part of what was missing has been delivered, and the rest cannot be had.
#: unrecoverable: Nothing of what was missing can be had.
GapState = Literal["open", "filled", "partial", "unrecoverable"]

#: Why data is missing.
#: disconnect: The connection was down; how much was missed meanwhile is not known.
#: stall: No event arrived for a subscription for much longer than usual, on a connection that stayed open.
#: sequence: The venue's own ids or intervals are not contiguous.
#: overflow: A queue was full; a consumer's queue loses events only for that consumer.
#: silence: Before it disconnected, a connection of its own delivered nothing while others still did (ccxt).
#: error: Reading the channel failed, and it is read again (ccxt).
#: crossed: Best bid and best ask of the book crossed, and the book is loaded again (ccxt).
#: reset: The venue cleared the order book and sends it again (ib).
#: ended: The venue ended the subscription, and it is subscribed again (ib).
#: restart: The stream did not run; the gap begins with the last event in the store of a sink.
#: deleted: A store deleted events by age or size, or lost them, before they were read (nats).
GapCause = Literal[
    "disconnect", "stall", "sequence", "overflow", "silence", "error", "crossed", "reset", "ended",
    "restart", "deleted",
]  # fmt: skip

#: What has changed.
#: connected: A connection is open.
#: logged_in: The venue accepted the login.
#: login_refused: The venue refused the login; the detail has its reason.
#: subscribed: The venue acknowledged subscriptions, or polling them has begun.
#: live: The venue sends data for this subscription (ib).
#: refused: The venue refused a subscription, or has no data of the symbol; the detail has the reason.
#: stalled: No event arrived for a subscription for much longer than usual; it is subscribed again.
#: venue_clock_stopped: Events arrive, but the venue's timestamps have stopped advancing.
#: venue_clock_running: The venue's timestamps advance again.
#: venue_clock_jumped: The venue's clock moved against ours by more than a second.
#: replacing: A second connection is opened to take over from one that is old or about to be closed.
#: replaced: The second connection has taken over, and the first one is closed.
#: reconnecting: A connection ended or could not be opened; the detail has the reason and the delay.
#: throttled: A connection waits for the venue's limit of connections; the detail has the seconds.
#: abandoned: The connection of this subscription failed for good or too often; it is not tried again.
#: notice: The venue sent a message for people; the detail has its text.
#: request_failed: A REST request was refused or failed for good; the detail has the reason.
#: stage_restarted: A stage raised and was created anew, without its former state.
#: stage_disabled: A stage raised and is left out from now on.
#: failed: The feed ended with an error; the detail has the error.
#: ended: The feed ended without an error.
#: synced: The order book is complete and follows the venue.
#: stale: Data is known to be outdated, or missing; an order book is empty until it is synced.
#: crossed: The best bid was not below the best ask; the order book is empty until it is synced again.
#: sampled: The channel is polled: changes between two polls are not seen (alpaca).
#: token_loop: The venue sent the same page token twice; the rest is requested in the next round (alpaca).
#: trade_corrected: The venue corrected a trade that it had sent (alpaca).
#: trade_cancelled: The venue cancelled a trade that it had sent (alpaca).
#: trading_status: The venue changed the trading status of a symbol, such as a halt (alpaca).
#: price_band: The venue changed the price limits of a symbol (alpaca).
#: unproven: It is not known whether lost updates of this order book are detected (ccxt).
#: replica_ahead: Another node than before delivers a shard first; the detail says by how much (nats).
#: released: Another node of the cluster streams what this one did; the detail names shard and node (cluster).
#: delayed: The venue sends delayed data for this subscription (ib).
#: halted: The venue halted trading of the symbol, or lists it as halted.
StatusState = Literal[
    "connected", "logged_in", "login_refused", "subscribed", "live", "refused", "stalled",
    "venue_clock_stopped", "venue_clock_running", "venue_clock_jumped", "replacing", "replaced",
    "reconnecting", "throttled", "abandoned", "notice", "request_failed", "stage_restarted", "stage_disabled",
    "failed", "ended", "synced", "stale", "crossed", "sampled", "token_loop", "trade_corrected",
    "trade_cancelled", "trading_status", "price_band", "unproven", "replica_ahead", "released", "delayed",
    "halted",
]  # fmt: skip

#: The rule that a rejected frame or event broke.
#: unreadable_frame: The frame is neither market data nor a reply that the adapter knows.
#: parser_error: The venue's parser raised at this frame.
#: corrupt_record: A line, or a damaged stretch, of a recording cannot be read.
#: unreadable_answer: An answer over REST cannot be read.
#: out_of_bounds: A time, an id or a number cannot be represented, or is no number.
#: stage_failed: A stage raised at this event, and raised again after it was created anew.
#: price: A price is not a finite number above 0.
#: size: A size or volume is not a finite number, or is below what is possible.
#: range: High, low, open, close or last contradict each other.
#: crossed: The best bid is not below the best ask.
#: duplicate: The id or sequence number has been seen before.
#: order: The id or sequence number is below the ones seen so far.
#: ahead: The venue's time is too far ahead of ours.
#: backwards: The venue's time is before that of an earlier event by more than is allowed.
#: jump: The price differs too much from the last accepted one.
#: not_finite: A trade's price or size is not a finite number, so that no bar includes it (bars).
#: late_trade: The trade arrived after its bar could be revised (bars).
#: not_market_trade: The trade did not take place in the order book, such as an insurance fund trade (binance).
#: block_trade: The trade was negotiated outside the order book (bybit).
#: half_quote: A quote is a change of one side, where whole quotes are expected (bybit).
#: half_ticker: A ticker lacks figures that no earlier message had (bybit).
#: incomplete: A field that the event needs is missing or cannot be read (ccxt).
#: trade_void: The venue marks the trade as cancelled or corrected (alpaca).
#: no_value: The venue sent a placeholder instead of a price (ib).
#: sink_refused: The store of a sink refused the event; it is in the sink's file of such events too.
RejectRule = Literal[
    "unreadable_frame", "parser_error", "corrupt_record", "unreadable_answer", "out_of_bounds",
    "stage_failed", "price", "size", "range", "crossed", "duplicate", "order", "ahead", "backwards",
    "jump", "not_finite", "late_trade", "not_market_trade", "block_trade", "half_quote", "half_ticker",
    "incomplete", "trade_void", "no_value", "sink_refused",
]  # fmt: skip

#: What a full queue does.
#: block: The reader waits until the consumer has made room.
#: drop_oldest: The oldest events are dropped, and a Gap reports them.
#: conflate: Only the latest event of each type, symbol and channel is kept, and a Gap reports the others.
#: error: The consumer ends with QueueOverflow.
QueuePolicy = Literal["block", "drop_oldest", "conflate", "error"]
