"""A run's folder and its shards in, `page.html` out: curves, what was mined, a map of the bank.

page.py      `write_page`: the parts of the page, and what its script is given
curves.py    metrics -> curves of at most a few hundred points
negatives.py snapshots of what was mined -> what the page shows of each anchor
bank_map.py  rows of the bank -> dots in two dimensions
pictures.py  frames -> pictures as they are stored, and thumbnails
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
