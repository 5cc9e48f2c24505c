"""What runs around every feed: clock, event loop, garbage collector, backoff, rate limits, taps."""
