"""The command line: one thin module a command, nothing here that a library user would miss.

Commands take what they use from the public API of the packages, as in `feed.open_shards`: it is imported when it is
first used, so that help and wrong options do not wait for torch.
"""
