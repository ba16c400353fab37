"""Betons, FFCV's dataset files: exports shards to one, and decodes its frames with FFCV's compiled decoder."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from usucl_fast.errors import DataError, DecodeError
from usucl_fast.feed.decode import PNG, decode_frame
from usucl_fast.files import check_file_out, write_whole
from usucl_fast.optional import needed
from usucl_fast.progress import Progress
from usucl_fast.shards import ShardStore, map_file

PAGE = 1 << 23
"""Bytes of a page, as FFCV's own writer has it. No frame lies in two; pages grow where a frame is larger."""


def import_ffcv(module: str) -> Any:
    """Imports the module `ffcv.<module>`.

    Raises:
        UsageError: FFCV is not installed, or does not load.
    """
    headers = ", which needs the headers of OpenCV and TurboJPEG (Debian: libopencv-dev, libturbojpeg0-dev, pkg-config)"
    threads = torch.get_num_threads()
    try:
        with needed("FFCV", "a .beton", "ffcv", headers):
            return importlib.import_module(f"ffcv.{module}")
    finally:
        torch.set_num_threads(threads)  # FFCV sets it to 1 when it is imported


def export_beton(store: ShardStore, out: Path, overwrite: bool = False, raw: bool = False) -> None:
    """Writes all frames into one beton, in the order of their frame ids, whole or not at all.

    Its fields are `image` (FFCV's RGBImageField), `frame_id` and `video` (IntField). JPEG frames are not encoded again;
    lossless ones, or with `raw` all, as pixels, `[H, W, 3]`, because FFCV reads no PNG. The same shards give the same
    bytes.

    FFCV's own writer is not used: it would compress the frames again, and waits for ever where a frame does not decode.

    Raises:
        UsageError: FFCV is not installed, or `out` is there.
        DataError: a frame is damaged; the message names it.
    """
    types, fields = import_ffcv("types"), import_ffcv("fields")
    check_file_out("OUT", out, overwrite)
    table = store.table
    videos = table.rows["video"]
    height, width = table.size[videos].T
    raw = raw or bytes(store.read(np.array([0]))[0][:4]) == PNG
    sizes = height * width * 3 if raw else table.rows["length"].astype(np.int64)

    handlers = {"image": fields.RGBImageField(), "frame_id": fields.IntField(), "video": fields.IntField()}
    type_ids = {handler: number for number, handler in types.TYPE_ID_HANDLER.items()}
    descriptors = np.zeros(len(handlers), types.FieldDescType)
    for descriptor, (name, handler) in zip(descriptors, handlers.items(), strict=True):
        descriptor["type_id"] = type_ids[type(handler)]
        descriptor["name"][: len(name)] = np.frombuffer(name.encode(), np.uint8)
    metadata = np.zeros(len(table), types.get_metadata_type(list(handlers.values())))
    page = max(PAGE, 1 << int(sizes.max() - 1).bit_length())
    before = types.HeaderType.itemsize + descriptors.nbytes + metadata.nbytes
    places, end = _places(sizes, before, page)

    image, metadata["f1"], metadata["f2"] = metadata["f0"], np.arange(len(table)), videos
    image["mode"] = 1 if raw else 0  # as FFCV numbers raw pixels and JPEG
    image["height"], image["width"], image["data_ptr"] = height, width, places
    allocated = np.zeros(len(table), types.ALLOC_TABLE_TYPE)
    allocated["sample_id"], allocated["ptr"], allocated["size"] = np.arange(len(table)), places, sizes
    header = np.zeros((), types.HeaderType)
    header["version"], header["num_fields"], header["page_size"] = types.CURRENT_VERSION, len(handlers), page
    header["num_samples"], header["alloc_table_ptr"] = len(table), end

    out.parent.mkdir(parents=True, exist_ok=True)
    with write_whole(out) as file, Progress("videos", len(table.videos)) as progress:
        file.write(header.tobytes() + descriptors.tobytes() + metadata.tobytes())
        position = before
        for first, last in zip(table.first_row[:-1].tolist(), table.first_row[1:].tolist(), strict=True):
            frame_ids = np.arange(first, last)
            for frame_id, data in zip(frame_ids.tolist(), store.read(frame_ids), strict=True):
                file.write(bytes(places[frame_id] - position))
                file.write((decode_frame(store, frame_id, data, 3) if raw else data).tobytes())
                position = places[frame_id] + sizes[frame_id]
            progress.advance(frames=last)
        file.write(bytes(end - position))
        file.write(allocated.tobytes())


def _places(sizes: NDArray[np.int64], before: int, page: int) -> tuple[NDArray[np.int64], int]:
    """The position of each frame in the file, from the first page after `before` bytes on, and the end of the last."""
    places = []
    place = -(-before // page) * page
    for size in sizes.tolist():
        if place % page + size > page:
            place = -(-place // page) * page
        places.append(place)
        place += size
    return np.array(places, np.int64), -(-place // page) * page


class Beton:
    """A memory-mapped beton with exactly the frames of these shards.

    Raises:
        UsageError: FFCV is not installed.
        DataError: `path` is not a beton, or not one of these shards.
    """

    def __init__(self, path: Path, store: ShardStore) -> None:
        self._path, self._table = path, store.table
        self._imdecode = import_ffcv("libffcv").imdecode
        try:
            reader = import_ffcv("reader").Reader(str(path))
            fields = dict(zip(reader.field_names, reader.metadata_type.names, strict=True))
            image, frame_ids = reader.metadata[fields["image"]], reader.metadata[fields["frame_id"]]
            self._mode, self._place = image["mode"], image["data_ptr"].astype(np.int64)
            shape = np.stack([image["height"], image["width"]], axis=-1).astype(np.int64)
            allocated = np.sort(reader.alloc_table, order="ptr")
            found = allocated[np.searchsorted(allocated["ptr"], image["data_ptr"])]
        except (AssertionError, LookupError, ValueError, MemoryError) as error:
            raise DataError(f"{path} is not a beton of usucl-shard export-ffcv ({error}); export again") from None
        rows = store.table.rows
        self._end = self._place + found["size"].astype(np.int64)
        if len(frame_ids) != len(rows):
            raise DataError(f"{path} has {len(frame_ids)} frames, SHARDS {store.name} has {len(rows)}; export it again")
        sizes = np.where(self._mode == 0, rows["length"], shape.prod(axis=-1) * 3)
        if not (
            np.array_equal(frame_ids, np.arange(len(rows)))
            and np.array_equal(shape, store.table.size[rows["video"]])
            and np.array_equal(found["ptr"], image["data_ptr"])
            and np.array_equal(found["size"], sizes)
        ):
            raise DataError(f"{path} holds other frames than SHARDS {store.name}; export it again")
        self._map = map_file(path)
        if self._end.max() > len(self._map):
            raise DataError(f"{path} has lost its end; export the shards again")

    def decode(self, frame_id: int) -> NDArray[np.uint8]:
        """Decodes one frame to uint8 `[H, W, 3]`; grey frames have three equal channels. Thread-safe.

        Raises:
            DecodeError: it does not decode.
        """
        height, width = self._table.size[self._table.rows[frame_id]["video"]].tolist()
        data = self._map[self._place[frame_id] : self._end[frame_id]]
        pixels = np.empty((height, width, 3), np.uint8)
        if self._mode[frame_id] == 1:
            pixels[:] = data.reshape(pixels.shape)
        elif self._imdecode(data, pixels, height, width, height, width) != 0:
            name = self._table.name_of(frame_id)
            raise DecodeError(f"frame {name} (id {frame_id}) in {self._path} does not decode; export the shards again")
        return pixels
