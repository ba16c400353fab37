"""Decoded pictures -> crops, compiled."""

import numpy as np
from numba import njit

# In the inner loops an index is the loop's own or unsigned, and rows are slices: any other could count from the end,
# and asking that at every pixel keeps the compiler from working on many at once.


@njit("Tuple((int64[::1], float32[:, ::1]))(int64, int64)", nogil=True, cache=True)
def triangles(before, after):  # type: ignore[no-untyped-def]
    """The pixels along one side that each new pixel is made of: the first one, int64 `[after]`, and the weights of it
    and the following, float32 `[taps, after]`, 0 where there are fewer."""
    scale = before / after
    reach = max(scale, 1.0)
    taps = min(before, int(np.ceil(2 * reach)))
    first = np.empty(after, np.int64)
    weights = np.zeros((taps, after), np.float32)
    for new in range(after):
        center = (new + 0.5) * scale
        first[new] = max(0, min(int(center - reach + 0.5), before - taps))
        total = 0.0
        for tap in range(taps):
            weight = max(0.0, 1 - abs(first[new] + tap + 0.5 - center) / reach)
            weights[tap, new] = weight
            total += weight
        for tap in range(taps):
            weights[tap, new] /= total
    return first, weights


@njit("void(uint8[::1], uint8[::1], uint64)", nogil=True, cache=True)
def copy_mirrored(row, out, channels):  # type: ignore[no-untyped-def]
    """A row of pixels, last pixel first."""
    if channels == 1:
        for x in range(len(out)):
            out[x] = row[np.uint64(len(row) - 1 - x)]
        return
    width = np.uint64(len(out)) // channels
    for x in range(width):
        for channel in range(channels):
            out[np.uint64(x) * channels + channel] = row[(width - np.uint64(1) - np.uint64(x)) * channels + channel]


@njit("void(float32[::1], float32[::1], float32[::1], uint32[::1])", nogil=True, cache=True, fastmath=True)
def add_weighted(total, weights, line, places):  # type: ignore[no-untyped-def]
    """total += weights * line[places]"""
    for x in range(len(total)):
        total[x] += weights[x] * line[places[x]]


@njit(
    "void(uint8[::1], int64[::1], int64[::1], int64[:, ::1], boolean[::1], int64[::1], uint8[:, :, :, ::1])",
    nogil=True,
    cache=True,
    fastmath=True,
)
def cut(pixels, starts, widths, boxes, flips, places, out_NHWC):  # type: ignore[no-untyped-def]
    """Crops, resizes and mirrors pictures, each in one pass.

    Resizing is bilinear with antialiasing: a triangle as wide as a pixel of the coarser of both pictures.

    Args:
        pixels: uint8, one picture `[height, width, C]` behind another.
        starts: int64 `[M]`, where they start.
        widths: int64 `[M]`, of the pictures.
        boxes: int64 `[M, 4]`, top, left, height and width of the crops.
        flips: bool `[M]`, mirrored.
        places: int64 `[M]`, where in `out_NHWC` they go.
        out_NHWC: uint8 `[N, size, size, C]`.
    """
    size, channels = out_NHWC.shape[1], out_NHWC.shape[3]
    length = size * channels
    total, mirrored = np.empty(length, np.float32), np.empty(length, np.uint8)
    for picture in range(len(starts)):
        top, left, height, width = boxes[picture]
        stride = widths[picture] * channels
        start = starts[picture] + top * stride + left * channels
        out = out_NHWC[places[picture]].reshape(size * length)
        if height == size and width == size:
            for y in range(size):
                row, new = pixels[start + y * stride :][:length], out[y * length :][:length]
                if flips[picture]:
                    copy_mirrored(row, new, channels)
                else:
                    for x in range(length):
                        new[x] = row[x]
            continue
        first_y, weights_y = triangles(height, size)
        first_x, weights = triangles(width, size)
        weights_x = np.repeat(weights, channels).reshape(len(weights), length)
        places_x = np.empty((len(weights), length), np.uint32)
        for tap in range(len(weights)):
            for x in range(length):
                places_x[tap, x] = (first_x[x // channels] + tap) * channels + x % channels
        line = np.empty(width * channels, np.float32)
        for y in range(size):
            line[:] = 0
            for tap in range(len(weights_y)):
                row = pixels[start + (first_y[y] + tap) * stride :][: len(line)]
                weight = weights_y[tap, y]
                for x in range(len(line)):
                    line[x] += weight * row[x]
            total[:] = 0.5
            for tap in range(len(weights_x)):
                add_weighted(total, weights_x[tap], line, places_x[tap])
            new = out[y * length :][:length]
            row = mirrored if flips[picture] else new
            for x in range(length):
                row[x] = np.uint8(total[x])
            if flips[picture]:
                copy_mirrored(mirrored, new, channels)
