"""Exact top-k inner-product search over blocks of rows, compiled for a CPU.

search.py  what a bank calls: the stages of a search, and their shares for threads
blocks.py  blocks of rows, kept up to date as rows change
levels.py  the ball and the int8 codes of each block, compiled
bounds.py  the error bounds of all that is cheaper than a product in float64, derived
scan.py    the loops of a search, compiled
tile.py    the innermost of them: int8 products
stored.py  rows as they are stored, in compiled code
"""
