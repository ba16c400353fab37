"""What a JPEG says of its own colours, which it knows better than the DICOM file around it."""

YBR, RGB = "YBR_FULL", "RGB"
JFIF, ADOBE = 0xE0, 0xEE
"""Markers of the segments that say it."""
FRAMES = (0xC0, 0xC1, 0xC2, 0xC3)
"""Markers of the segment that says how components are stored: baseline, extended, progressive, lossless."""


def space_of(stream: bytes, converts: bool) -> str | None:
    """The colour space in which a JPEG is decoded, `RGB` or `YBR_FULL`; None where it does not say.

    The rules are libjpeg's. What is stored more coarsely can only be a difference of colours.

    converts: whether the decoder makes RGB of all that has Adobe's mark, as Pillow does.
    """
    place, has_jfif, adobe = 2, False, -1
    while stream[place : place + 1] == b"\xff":
        marker, length = stream[place + 1], int.from_bytes(stream[place + 2 : place + 4], "big")
        content = stream[place + 4 : place + 2 + length]
        if marker == JFIF:
            has_jfif = has_jfif or content.startswith(b"JFIF")
        elif marker == ADOBE and content.startswith(b"Adobe") and len(content) > 11:
            adobe = content[11]
        elif marker in FRAMES:
            return _space(content, has_jfif, adobe, converts)
        place += 2 + max(length, 2)
    return None


def _space(components: bytes, has_jfif: bool, adobe: int, converts: bool) -> str | None:
    if components[5:6] != b"\3":
        return None
    if adobe >= 0 and converts:
        return RGB
    if has_jfif:
        return YBR
    if adobe >= 0:
        return YBR if adobe else RGB
    if len(set(components[7:15:3])) > 1:
        return YBR
    return RGB if components[6:15:3] == b"RGB" else None
