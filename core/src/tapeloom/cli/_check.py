"""``tapeloom check``: checks a stack and prints what it would do, without opening a connection."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from tapeloom._compose.composer import compose
from tapeloom._compose.discovery import installed
from tapeloom._compose.plan import FeedPlan
from tapeloom._compose.registry import Registry
from tapeloom._config import to_toml
from tapeloom._runtime.system_clock import SystemClock
from tapeloom._stream.opening import load
from tapeloom.errors import masked
from tapeloom.plugin import HistoryQuery


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
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check the stack and print the result; return the exit code."""
    draft = load(args.stack)
    stack = draft.stack
    composed = compose(stack, Registry(), SystemClock(), mistakes=draft.mistakes).or_raise()
    found = installed()
    used: list[str] = []
    for plan in composed.plans:
        used += [plan.spec.venue, *(stack.stages[name].use for name in plan.spec.stages)]
    used += [spec.use for spec in stack.sinks]
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
    for spec in stack.sinks:
        print(f"sink {spec.name}: {spec.use}, queue of {spec.queue.size}, {spec.queue.policy}")
    print("nothing is wrong with it")
    if args.resolved:
        print(f"\n{to_toml(stack)}", end="")
    return 0


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
    requests = [plan.history.listing_request()]
    if any(channel == "book" for channel in plan.feed.channels):
        queries = [HistoryQuery("book", symbol, channel="book") for symbol in plan.feed.symbols]
        requests += [plan.history.request(query) for query in queries]
    sent = [request for request in requests if request is not None]
    weight = sum(request.weight for request in sent)
    budget = next((request.rate for request in sent if request.rate is not None), None)
    limit = f", of {budget.count} in {budget.seconds:g} s" if budget else ""
    yield f"  requests at the start: up to {len(sent)}, weight {weight}{limit}"
