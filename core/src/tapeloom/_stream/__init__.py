"""Runs a stream: the task tree, the stages, the queues and the consumers.

`opening` opens a `stream`; `feed` runs one feed of it, with the stages in `pipeline`. Events are
delivered to bounded `queues`, and from there to `consumers`, to plain functions in `callbacks`, and to
async callbacks and sinks in `consumer_tasks`.
"""
