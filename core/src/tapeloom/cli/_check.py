"""``tapeloom check``: checks a stack and prints what it would do, without connecting to a venue."""

from __future__ import annotations

import argparse
import inspect
import math
from collections.abc import Iterator, Sequence
from itertools import chain
from urllib.parse import urlsplit

import anyio

from tapeloom._compose.composer import compose
from tapeloom._compose.discovery import installed
from tapeloom._compose.plan import FeedPlan, SinkPlan
from tapeloom._compose.registry import Registry
from tapeloom._config import to_toml
from tapeloom._network.http_client import http_client
from tapeloom._runtime.system_clock import SystemClock
from tapeloom._stream.opening import load
from tapeloom._stream.sinks.writer import call, explain
from tapeloom.errors import masked
from tapeloom.plugin import HistoryQuery, Request
from tapeloom.units import Rate

#: Seconds that a store may take to answer `check --connect`.
_CONNECT_SECONDS = 15.0
#: Seconds from which on the duration of a start is worth a line.
_LONG_START_SECONDS = 10.0


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = verbs.add_parser(
        "check",
        help="check a stack without connecting",
        description="Check a stack without connecting. Prints its plugins and their versions, the order of"
        " its stages, the connections it needs, and the requests at the start.",
        epilog="example: tapeloom check stack.toml",
    )
    parser.add_argument("stack", metavar="STACK.toml")
    parser.add_argument(
        "--resolved",
        action="store_true",
        help="also print the whole stack, with defaults and with secrets masked",
    )
    parser.add_argument(
        "--connect",
        action="store_true",
        help="also connect to the store of each sink: print its version, rights and differences of its"
        " tables; nothing in it is changed",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check the stack and print the result; return the exit code."""
    draft = load(args.stack)
    stack = draft.stack
    composed = compose(stack, Registry(), SystemClock(), mistakes=draft.mistakes).or_raise()
    http_client(stack.network, stack.source)  # raises ConfigError for certificates that are none
    found = installed()
    used: list[str] = []
    for plan in composed.plans:
        used += [plan.spec.venue, *(stack.stages[name].use for name in plan.spec.stages)]
    used += [spec.use for spec in stack.sinks]
    used += [stack.cluster.use] if stack.cluster is not None else []
    used += [stack.network.transport] if stack.network.transport else []
    print(f"{args.stack}: {len(composed.plans)} feed(s), backend {stack.backend}")
    for name in dict.fromkeys(used):
        plugin = found.get(name)
        print(
            f"  plugin {name}: "
            + (f"{plugin.distribution} {plugin.version}" if plugin else "registered")
        )
    for plan in composed.plans:
        print("\n".join(describe(plan)))
    for sink in composed.sinks:
        print(_describe_sink(sink))
    print("".join(f"{line}\n" for line in _slow_starts(composed.plans)), end="")
    for line in composed.steering.describe() if composed.steering is not None else ():
        print(f"cluster: {line}")
    problems = anyio.run(_try_sinks, composed.sinks, backend=stack.backend) if args.connect else 0
    print(f"{problems} sink(s) cannot be used" if problems else "nothing is wrong with it")
    if args.resolved:
        print(f"\n{to_toml(stack)}", end="")
    return 1 if problems else 0


def _describe_sink(plan: SinkPlan) -> str:
    """Return the printed line about one sink: its guarantee, queue and spool."""
    spec = plan.spec
    spool = f", spool of {spec.spool:,} bytes" if spec.spool else ""
    is_async = inspect.iscoroutinefunction(getattr(plan.sink, "write", None))
    queue = f"queue of {spec.queue.size}, {spec.queue.policy}{spool}"
    queue += "" if is_async else ", writes in a worker thread"
    queue = "called while events are delivered" if hasattr(plan.sink, "observe") else queue
    return f"sink {spec.name}: {spec.use}, {plan.sink.guarantee.replace('_', ' ')}, {queue}"


async def _try_sinks(plans: Sequence[SinkPlan]) -> int:
    """Connect to the store of each sink and print what it says; return how many cannot be used."""
    problems = 0
    for plan in plans:
        check = getattr(plan.sink, "check", None)
        if check is None:
            print(f"sink {plan.spec.name}: the plugin {plan.spec.use!r} cannot check its store")
            continue
        try:
            with anyio.fail_after(_CONNECT_SECONDS):
                lines = await call(check)
        except TimeoutError:
            lines = [f"the store does not answer within {_CONNECT_SECONDS:.0f} s. Is it running?"]
            problems += 1
        except Exception as error:
            lines = [explain(error)]
            problems += 1
        for line in lines:
            print(f"sink {plan.spec.name}: {line}")
    return problems


def describe(plan: FeedPlan) -> Iterator[str]:
    """Yield the printed lines about one feed: symbols, channels, stages, connections, requests."""
    feed = plan.feed
    order = " → ".join(["parse", *dict.fromkeys(step.name for step in plan.steps)]) or "parse"
    yield f"feed {feed.name}: {feed.venue} {feed.market}".rstrip()
    yield f"  symbols: {', '.join(feed.symbols)}"
    yield f"  channels: {', '.join(feed.channels)}"
    yield f"  stages: {order}"
    if plan.source is not None:
        yield f"  source: {type(plan.source).__name__}, on {' or '.join(sorted(plan.source.backends))}"
        return
    connections = plan.connections(feed.symbols)
    yield f"  connections: {len(connections)}"
    for number, (endpoint, subscriptions) in enumerate(connections, 1):
        messages = plan.codec.encode_subscribe(subscriptions, 1) if plan.codec else []
        yield (
            f"    {number}. {masked(endpoint.url)}: {len(subscriptions)} subscriptions in"
            f" {len(messages)} message(s), limit {endpoint.max_subscriptions}"
        )
    yield from _requests(plan)


def _requests(plan: FeedPlan) -> Iterator[str]:
    if plan.history is None:
        return
    sent = _start_requests(plan)
    weight = sum(request.weight for request in sent)
    budget = next((request.rate for request in sent if request.rate is not None), None)
    limit = f", of {budget.count} in {budget.seconds:g} s" if budget else ""
    yield f"  requests at the start: up to {len(sent)}, weight {weight}{limit}"


def _start_requests(plan: FeedPlan) -> list[Request]:
    """Return the requests that a feed may send at the start: the listing, and a snapshot for each book."""
    if plan.history is None:
        return []
    requests = [plan.history.listing_request()]
    if any(channel == "book" for channel in plan.feed.channels):
        queries = [HistoryQuery("book", symbol, channel="book") for symbol in plan.feed.symbols]
        requests += [plan.history.request(query) for query in queries]
    return [request for request in requests if request is not None]


def _slow_starts(plans: Sequence[FeedPlan]) -> Iterator[str]:
    """Yield a line for each host whose rate limit, which all feeds share, makes the start take long."""
    sent: dict[tuple[str, Rate], list[int]] = {}
    for request in chain.from_iterable(map(_start_requests, plans)):
        if request.rate is not None:
            host = urlsplit(request.url).hostname or ""
            sent.setdefault((host, request.rate), []).append(request.weight)
    for (host, rate), weights in sent.items():
        seconds = (math.ceil(sum(weights) / rate.count) - 1) * rate.seconds
        if seconds >= _LONG_START_SECONDS:
            yield (
                f"the start takes at least {seconds:g} s until each book is complete: {len(weights)}"
                f" requests of the weight {sum(weights):,} in all, and {host} allows"
                f" {rate.count:,} in {rate.seconds:g} s. Fewer symbols, or smaller snapshots, take less."
            )
