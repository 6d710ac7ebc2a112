"""The whole event store as a file: export, import, and the checks of a file."""
