"""Figures in, something to look at out: progress on the terminal, curves, tables."""
