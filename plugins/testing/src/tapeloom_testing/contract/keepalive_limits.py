"""The guarantees `heartbeat`, `farewell` and `limits` of a venue, checked without a network."""

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
    """Check that the heartbeat is frequent enough, accepted, and answered with a Pong."""
    plan, simulated = planned(subject, simulated)
    for endpoint, _ in connections(plan):
        dialogue = Dialogue(subject, plan, endpoint, simulated)
        beat, rules = endpoint.heartbeat, dialogue.session.rules
        if beat is None:
            if rules.silence_timeout_seconds is not None:
                raise ContractViolation(
                    f"the venue closes a connection when the client sends nothing for"
                    f" {rules.silence_timeout_seconds} s: declare a heartbeat for the endpoint {endpoint.url}."
                )
            continue
        if not 0 < beat.interval_seconds < (rules.silence_timeout_seconds or math.inf):
            raise ContractViolation(
                f"a heartbeat every {beat.interval_seconds} s is too slow: the venue closes the connection"
                f" after {rules.silence_timeout_seconds} s."
            )
        if beat.message is None and not rules.ping_frames_count:
            raise ContractViolation(
                f"the heartbeat of {endpoint.url} is a WebSocket ping, which the venue does not count:"
                " set `Heartbeat.message` to the venue's own message."
            )
        if beat.message is None:
            continue
        replies = dialogue.send(beat.message)
        if dialogue.line.closed or any(isinstance(reply, Refusal) for reply in replies):
            raise ContractViolation(
                f"the venue refuses the heartbeat {beat.message!r}: {replies!r}."
            )
        if not any(isinstance(reply, Pong) for reply in replies):
            raise ContractViolation(
                f"`decode_reply` must return a Pong after the heartbeat {beat.message!r}, but the"
                f" replies are {replies!r}."
            )


def farewell(subject: Subject, simulated: str = "") -> None:
    """Check that the venue's message before it closes a connection is decoded as a Notice."""
    plan, simulated = planned(subject, simulated)
    for endpoint, _ in connections(plan):
        dialogue = Dialogue(subject, plan, endpoint, simulated)
        texts = dialogue.session.closing_messages()
        replies = dialogue.decode(texts)
        notices = [reply for reply in replies if isinstance(reply, Notice)]
        if texts and not any(notice.closes_connection for notice in notices):
            raise ContractViolation(
                f"the venue sends {texts[0]!r} before it closes the connection: `decode_reply` must"
                f" return a Notice with closes_connection=True, but the replies are {replies!r}."
            )


def limits(subject: Subject, simulated: str = "") -> None:
    """Check that the endpoint declares limits, none of them above the venue's."""
    plan, simulated = planned(subject, simulated)
    for endpoint, _ in connections(plan):
        if not endpoint.url.startswith(("ws://", "wss://")):
            raise ContractViolation(f"{endpoint.url!r} is not a ws:// or wss:// URL.")
        if not (endpoint.message_rate or endpoint.host_message_rate or endpoint.dial_rate):
            raise ContractViolation(
                f"the endpoint {endpoint.url} declares no limit: set `message_rate`,"
                " `host_message_rate` or `dial_rate`, and cite the source of the figure."
            )
        rules = Dialogue(subject, plan, endpoint, simulated).session.rules
        if rules.max_streams is not None and endpoint.max_subscriptions > rules.max_streams:
            raise ContractViolation(
                f"max_subscriptions is {endpoint.max_subscriptions}; the venue allows"
                f" {rules.max_streams} streams on one connection."
            )
        if rules.message_rate is not None:
            allowed = rules.message_rate.count / rules.message_rate.seconds
            rates = [
                rate
                for rate in (endpoint.message_rate, endpoint.host_message_rate)
                if rate is not None
            ]
            if not rates or min(rate.count / rate.seconds for rate in rates) > allowed:
                raise ContractViolation(
                    f"the venue allows {allowed:g} messages per second, but the endpoint declares"
                    f" {endpoint.message_rate!r}. Set `message_rate` to the venue's limit or less."
                )
        if (
            rules.max_age_seconds is not None
            and not (endpoint.max_age_seconds or math.inf) < rules.max_age_seconds
        ):
            raise ContractViolation(
                f"the venue closes a connection after {rules.max_age_seconds} s: set `max_age_seconds`"
                " below that, so that the connection is replaced before."
            )
