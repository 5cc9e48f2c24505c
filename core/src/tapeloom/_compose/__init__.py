"""Composition of a stack: plugins are found, imported and checked, and their hooks called once per feed.

Second step of the data flow, before any connection: `discovery` finds installed plugins without
importing them, `registry` imports plugins by name and calls their hooks, `hook_checks` rejects plugins
that break the hook rules. `composer` builds the `plan` of each feed and sink. `conformance` reads the
conformance results that a plugin package carries.
"""
