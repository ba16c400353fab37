"""One source of any kind -> its pictures and their times."""

from usucl_fast.pack.container import open_container
from usucl_fast.pack.images import open_images
from usucl_fast.pack.kinds import Source
from usucl_fast.pack.video import Video


def open_video(source: Source, damaged: str = "refuse") -> Video:
    """Opens a source.

    damaged: what to do about damaged pictures: `refuse`, `drop` or `warn`.

    Raises:
        DecodeError: it cannot be opened.
    """
    if source.kind == "dicom":
        from usucl_fast.pack.dicom import open_dicom  # pydicom takes long to import, and most sources are none

        return open_dicom(source.files[0], damaged)
    if source.kind == "images":
        return open_images(source.files, damaged)
    return open_container(source.files[0], damaged)
