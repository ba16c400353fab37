"""`--sector FILE`: polygons, drawn by a person, of what to keep of each video's pictures."""

import fnmatch
import json
from pathlib import Path

from usucl_fast.errors import UsageError
from usucl_fast.pack.identity import Pseudonyms
from usucl_fast.pack.kinds import Source
from usucl_fast.pack.sector import Polygon


def read_outlines(
    path: Path, sources: list[Source], pseudonyms: Pseudonyms | None = None
) -> dict[str, tuple[Polygon, ...]]:
    """Reads a JSON file like the `sectors.json` of a packing, and returns the polygons of each source by its name.

    An object: key, the name of a video, or a pattern like `clinic-a/*` (the first that fits counts); value, an object
    whose `polygons` is a list of lists of corners `[x, y]`, in pixels of the original picture. The key may be the hash
    that `pseudonyms` puts in place of a name.

    Raises:
        UsageError: the file is not of that form, or a video is missing in it.
    """
    try:
        outlines = {
            key: tuple(tuple((int(x), int(y)) for x, y in polygon) for polygon in value["polygons"])
            for key, value in json.loads(path.read_bytes()).items()
        }
        if not all(polygons and all(len(polygon) > 2 for polygon in polygons) for polygons in outlines.values()):
            raise ValueError("a polygon needs three corners")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"--sector {path}: not a JSON file of polygons by video ({error})") from error
    found = {}
    for source in sources:
        fitting = (outlines[key] for key in outlines if fnmatch.fnmatchcase(source.name, key))
        hashed = pseudonyms.of("video", source.name) if pseudonyms else ""
        polygons = outlines.get(source.name) or outlines.get(hashed) or next(fitting, None)
        if polygons is None:
            raise UsageError(f"--sector {path}: does not have {source.name!r}; add it, or a pattern that fits it")
        found[source.name] = polygons
    return found
