"""REST: `query_queue` orders the queries, `rest_client` sends them, `listing_check` checks symbols."""
