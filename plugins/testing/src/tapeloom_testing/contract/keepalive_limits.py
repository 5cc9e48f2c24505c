"""What keeps a connection alive, what ends it, and what may be asked of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tapeloom.plugin import Notice, Pong, Refusal

from .declared import ContractViolation
from .dialogue import Dialogue, connections, planned

if TYPE_CHECKING:
    from .composed import Subject

__all__ = ["farewell", "heartbeat", "limits"]


def heartbeat(subject: Subject, simulated: str = "") -> None:
    """Hold that somebody keeps the connection alive, in words that the other side understands."""
    plan, simulated = planned(subject, simulated)
    for endpoint, _ in connections(plan):
        talk = Dialogue(subject, plan, endpoint, simulated)
        beat, rules = endpoint.heartbeat, talk.session.rules
        if beat is None:
            if rules.silence_timeout_seconds is not None:
                raise ContractViolation(
                    f"the venue ends a connection on which the client is silent for {rules.silence_timeout_seconds}"
                    f" s, and the endpoint {endpoint.url} declares no heartbeat."
                )
            continue
        if not 0 < beat.interval_seconds < (rules.silence_timeout_seconds or math.inf):
            raise ContractViolation(
                f"a heartbeat every {beat.interval_seconds} s is too slow: the venue waits {rules.silence_timeout_seconds} s."
            )
        if beat.message is None:
            continue
        replies = talk.say(beat.message)
        if talk.line.closed or any(isinstance(one, Refusal) for one in replies):
            raise ContractViolation(
                f"the venue does not take the heartbeat {beat.message!r}: {replies!r}."
            )
        if not any(isinstance(one, Pong) for one in replies):
            raise ContractViolation(
                f"after the heartbeat {beat.message!r} a Pong was expected from `accept`, and"
                f" {replies!r} came."
            )


def farewell(subject: Subject, simulated: str = "") -> None:
    """Hold that what the venue says before it ends a connection is understood as that."""
    plan, simulated = planned(subject, simulated)
    for endpoint, _ in connections(plan):
        talk = Dialogue(subject, plan, endpoint, simulated)
        texts = talk.session.closing_messages()
        replies = talk.hear(texts)
        if texts and not any(isinstance(one, Notice) and one.closes_connection for one in replies):
            raise ContractViolation(
                f"the venue says {texts[0]!r} before it ends the connection; a Notice with"
                f" ends=True was expected from `accept`, and {replies!r} came."
            )


def limits(subject: Subject, simulated: str = "") -> None:
    """Hold that the endpoint declares its venue's limits, and allows itself no more."""
    plan, simulated = planned(subject, simulated)
    for endpoint, _ in connections(plan):
        if not endpoint.url.startswith(("ws://", "wss://")):
            raise ContractViolation(f"{endpoint.url!r} is no address of a WebSocket.")
        if not (endpoint.message_rate or endpoint.host_message_rate or endpoint.dial_rate):
            raise ContractViolation(
                f"the endpoint {endpoint.url} declares no limit: set `messages`, `host_messages` or"
                " `dials`, with where the figure comes from."
            )
        rules = Dialogue(subject, plan, endpoint, simulated).session.rules
        if rules.max_streams is not None and endpoint.max_subscriptions > rules.max_streams:
            raise ContractViolation(
                f"max_subscriptions is {endpoint.max_subscriptions}; the venue allows"
                f" {rules.max_streams} streams on one connection."
            )
        if rules.message_rate is not None:
            theirs = rules.message_rate.count / rules.message_rate.seconds
            ours = [
                one
                for one in (endpoint.message_rate, endpoint.host_message_rate)
                if one is not None
            ]
            if not ours or min(one.count / one.seconds for one in ours) > theirs:
                raise ContractViolation(
                    f"the venue takes {theirs:g} messages a second, and the endpoint declares"
                    f" {endpoint.message_rate!r}. Set `messages` to no more."
                )
        if (
            rules.max_age_seconds is not None
            and not (endpoint.max_age_seconds or math.inf) < rules.max_age_seconds
        ):
            raise ContractViolation(
                f"the venue ends a connection after {rules.max_age_seconds} s; set `max_age` below it, so"
                " that it is replaced before."
            )
