"""REST: `query_queue` orders what is asked, `rest_client` asks it, `listing_check` checks symbols."""
