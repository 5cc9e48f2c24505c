"""``tapeloom check``: everything that can be known of a stack without dialling."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from tapeloom._compose.composer import compose
from tapeloom._compose.discovery import installed
from tapeloom._compose.plan import FeedPlan
from tapeloom._compose.registry import Registry
from tapeloom._config import resolved
from tapeloom._runtime.system_clock import SystemClock
from tapeloom._stream.opening import load
from tapeloom.plugin import HistoryQuery


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "check",
        help="check a stack without dialling",
        description="Check a stack without dialling: its plugins and their versions, the order of its"
        " stages, the connections it needs, what is asked at the start.",
        epilog="example: tapeloom check stack.toml",
    )
    parser.add_argument("stack", metavar="STACK.toml")
    parser.add_argument(
        "--resolved",
        action="store_true",
        help="print the whole stack too, defaults included and secrets masked",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check; return the exit code."""
    draft = load(args.stack)
    stack = draft.stack
    composed = compose(stack, Registry(), SystemClock(), mistakes=draft.mistakes)
    found = installed()
    used = [
        name for plan in composed.plans for name in (plan.spec.venue, *_uses(plan, stack.stages))
    ]
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
        print(f"\n{resolved(stack)}", end="")
    return 0


def _uses(plan: FeedPlan, stages: object) -> Iterator[str]:
    assert isinstance(stages, dict)
    for name in plan.spec.stages:
        yield stages[name].use if name in stages else name


def describe(plan: FeedPlan) -> Iterator[str]:
    """Yield lines that say what a feed will do."""
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
            f"    {number}. {endpoint.url}: {len(subscriptions)} subscriptions in"
            f" {len(messages)} message(s), limit {endpoint.max_subscriptions}"
        )
    yield from _requests(plan)


def _requests(plan: FeedPlan) -> Iterator[str]:
    if plan.history is None:
        return
    requests = [plan.history.listing_request()]
    if any(channel == "book" for channel in plan.feed.channels):
        requests += [
            plan.history.request(HistoryQuery("book", s, channel="book")) for s in plan.feed.symbols
        ]
    asked = [request for request in requests if request is not None]
    weight = sum(request.weight for request in asked)
    budget = next((request.rate for request in asked if request.rate is not None), None)
    limit = f", of {budget.count} in {budget.seconds:g} s" if budget else ""
    yield f"  requests at the start: up to {len(asked)}, weight {weight}{limit}"
