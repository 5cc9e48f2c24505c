"""REST: `query_queue` orders queries, `rest_client` sends them, `listing_check` checks symbols."""
