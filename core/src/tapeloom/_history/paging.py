"""Checks that the requests for a long past advance from page to page."""

from __future__ import annotations

from tapeloom.plugin import HistoryQuery, Request

#: In ns. A query that begins at least this much later needs another request: the coarsest times
#: of venues are seconds.
_SECOND = 1_000_000_000


def paging_defect(
    query: HistoryQuery, request: Request, previous: tuple[HistoryQuery, Request] | None
) -> str | None:
    """Return why *request* does not advance, in a sentence about the adapter; None if it does.

    *previous* is the last query about the same subscription and its request, None if there was none.
    """
    since, end = query.since, request.page_end
    if since is not None and end is not None and end <= since:
        return (
            f"{request.url} would be requested for ever: its page ends at {end} ns, not after its"
            f" beginning at {since} ns. This is a defect of the adapter: Request.page_end must be later"
            " than HistoryQuery.since."
        )
    if previous is None or not request.paged or since is None:
        return None
    last_query, last_request = previous
    is_same = (request.url, request.body) == (last_request.url, last_request.body)
    if is_same and last_query.since is not None and since >= last_query.since + _SECOND:
        return (
            f"{request.url} was requested already, for what begins {since - last_query.since} ns"
            " earlier. This is a defect of the adapter: the request must depend on HistoryQuery.since,"
            " or not be `paged`."
        )
    return None
