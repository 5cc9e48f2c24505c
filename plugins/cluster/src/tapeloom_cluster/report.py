"""What ``tapeloom cluster status`` shows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attrs import frozen

from .view import View

__all__ = ["ShardRow", "node_rows", "shard_rows", "table"]


@frozen
class ShardRow:
    """One shard."""

    shard: int
    live: int  #: how many nodes are live
    owners: tuple[str, ...]  #: what each of its slots does

    @property
    def cells(self) -> tuple[str, ...]:
        """What the table shows."""
        return str(self.shard), str(self.live), ", ".join(self.owners)


def node_rows(view: View, now: int) -> list[tuple[str, ...]]:
    """Return a heading and a row for each node; *now* is our time in ns."""
    rows: list[tuple[str, ...]] = [
        ("node", "host", "shards", "events", "gaps", "lag", "last event", "up", "")
    ]
    for name, member in sorted(view.members.items()):
        held = len(view.shards_of(name))
        last = f"{(now - member.last_event) / 1e9:.1f} s ago" if member.last_event else "none"
        rows.append(
            (
                name,
                member.host,
                str(held),
                f"{member.events:,}",
                f"{member.gaps:,}",
                f"{member.lag * 1000:.0f} ms",
                last,
                f"{max(now - member.since, 0) / 1e9:,.0f} s",
                "draining" if name in view.draining else "",
            )
        )
    return rows


def shard_rows(view: View, shards: int, replicas: int) -> list[ShardRow]:
    """Return the shards with the owners of their slots."""
    rows = []
    for shard in range(shards):
        owners = []
        live = 0
        for number in range(replicas + 1):
            slot = view.slot(shard, number)
            if slot.owner.phase == "free":
                continue
            phase = slot.owner.phase if view.is_owned(slot) else "gone"
            live += phase == "live"
            owners.append(f"{slot.owner.node} ({phase}, slot {number})")
        rows.append(ShardRow(shard, live, tuple(owners)))
    return rows


def table(rows: Iterable[Sequence[str]]) -> str:
    """Return rows as text, in columns."""
    cells = [[*row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )
