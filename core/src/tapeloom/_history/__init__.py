"""REST: `query_queue` orders queries, `rest_client` sends them.

`paging` checks that pages advance, `listing_check` checks the symbols of a feed.
"""
