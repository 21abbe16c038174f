"""The subcommands of `diffuapriel`, one file each.

A module's docstring is what `diffuapriel COMMAND --help` shows; `add` declares its arguments and `run` carries it
out, returning the exit code. Packages that take time to import are imported in `run`.
"""
