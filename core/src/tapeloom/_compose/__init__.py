"""From a stack to frozen plans, before the first byte: plugins found and loaded, hooks called once.

`discovery` finds what is installed without importing it, `registry` loads plugins by name and calls
their hooks, `hook_checks` holds them to the rules. `composer` makes the `plan` of each feed and sink.
`conformance` reads what has been proven of a plugin.
"""
