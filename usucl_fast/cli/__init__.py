"""The command line: one thin module a command, nothing here that a library user would miss."""
