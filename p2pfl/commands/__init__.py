"""One module for every command.

Each has ``add_arguments(parser)`` and ``run(options)``, and imports what is heavy in the latter.
"""
