"""From events to consumers: the task tree, the stages, the queues.

`opening` opens a `stream`; `feed_runner` runs one feed of it, with the stages in `pipeline`. Bounded
`queues` hand events to `consumers`, `callbacks` and, in `consumer_tasks`, to async callbacks and sinks.
"""
