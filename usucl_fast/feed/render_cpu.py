"""Crops and augments decoded pictures on the CPU, compiled: each in one go, while it is in the cache."""

import numpy as np
from numba import carray, from_dtype, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from usucl_fast.compiled import njit
from usucl_fast.feed.augmentation import GRAIN, GRAIN_PERIOD, PHOTOMETRY, texture

# In the inner loops an index is the loop's own or unsigned, and rows are slices: any other could count from the end,
# and asking that at every pixel keeps the compiler from working on many at once.

_GRAIN_TWICE, _TEXTURE_TWICE = np.tile(GRAIN, (1, 2)), np.tile(texture(), (1, 2))


def render(
    addresses: NDArray[np.int64],
    shapes: NDArray[np.int64],
    boxes: NDArray[np.int64],
    flips: NDArray[np.bool_],
    photometry: NDArray[np.void],
    places: NDArray[np.int64],
    out_NHWC: NDArray[np.uint8],
) -> None:
    """Crops, resizes, mirrors and augments M pictures, as `usucl_fast.feed.augmentation` says. Releases the GIL.

    Args:
        addresses: `[M]`, where in memory they are, uint8 `[height, width, C]`, without gaps.
        shapes: `[M, 2]`, their heights and widths.
        boxes: `[M, 4]`, top, left, height and width of the crops.
        flips: `[M]`, mirrored.
        photometry: `PHOTOMETRY` `[M]`.
        places: `[M]`, where in `out_NHWC` they go.
        out_NHWC: uint8 `[N, size, size, C]`.
    """
    _render(addresses, shapes, boxes, flips, photometry, _GRAIN_TWICE, _TEXTURE_TWICE, places, out_NHWC)


@intrinsic
def _pointer(typing_context, address):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.uint8)(types.int64), generate


@njit("Tuple((int64[::1], float32[:, ::1]))(int64, int64)", nogil=True)
def _triangles(before, after):  # type: ignore[no-untyped-def]
    """The pixels along one side that each new pixel is made of: the first one, int64 `[after]`, and the weights of it
    and the following, float32 `[taps, after]`, 0 where there are fewer. Bilinear with antialiasing: a triangle as wide
    as a pixel of the coarser of both pictures."""
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


@njit("void(uint8[::1], uint8[::1], uint64)", nogil=True)
def _copy_mirrored(row, out, channels):  # type: ignore[no-untyped-def]
    """A row of pixels, last pixel first."""
    if channels == 1:
        for x in range(len(out)):
            out[x] = row[np.uint64(len(row) - 1 - x)]
        return
    width = np.uint64(len(out)) // channels
    for x in range(width):
        for channel in range(channels):
            out[np.uint64(x) * channels + channel] = row[(width - np.uint64(1) - np.uint64(x)) * channels + channel]


@njit("void(float32[::1], float32[:, ::1], float32[::1], uint32[::1], uint32)", nogil=True, fastmath=True)
def _resize_row(line, weights, out, places, channels):  # type: ignore[no-untyped-def]
    """out = sum over taps of weights[tap] * line[places + tap * channels]"""
    if len(weights) == 2:  # enlarging: both in one go takes half the time
        near, far = weights[0], weights[1]
        for x in range(len(out)):
            out[x] = near[x] * line[places[x]] + far[x] * line[places[x] + channels]
        return
    out[:] = 0
    for tap in range(len(weights)):
        weight, start = weights[tap], np.uint32(tap) * channels
        for x in range(len(out)):
            out[x] += weight[x] * line[places[x] + start]


@njit("void(uint8[::1], float32[::1])", nogil=True, fastmath=True)
def _widen(row, out):  # type: ignore[no-untyped-def]
    for x in range(len(out)):
        out[x] = row[x]


@njit("void(float32[::1], float32[::1], float32, float32, uint8[::1])", nogil=True, fastmath=True)
def _blend(near, far, weight_near, weight_far, out):  # type: ignore[no-untyped-def]
    for x in range(len(out)):
        out[x] = np.uint8(weight_near * near[x] + weight_far * far[x] + np.float32(0.5))


@njit(
    ["void(float32[::1], float32, float32[::1])", "void(uint8[::1], float32, float32[::1])"],
    nogil=True,
    fastmath=True,
)
def _add(row, weight, total):  # type: ignore[no-untyped-def]
    for x in range(len(total)):
        total[x] += weight * row[x]


@njit("void(float32[::1], uint8[::1])", nogil=True, fastmath=True)
def _round(line, out):  # type: ignore[no-untyped-def]
    """Clipped to 0 ... 255."""
    for x in range(len(out)):
        out[x] = np.uint8(min(max(line[x], np.float32(0)), np.float32(255)) + np.float32(0.5))


@njit("void(uint8[::1], int64, int64, int64[::1], boolean, int64, int64, uint8[::1])", nogil=True)
def _crop(pixels, height, width, box, flip, size, channels, out):  # type: ignore[no-untyped-def]
    """`pixels` `[height, width, channels]` -> `out` `[size, size, channels]`, both flat."""
    top, left, box_height, box_width = box
    length, stride = size * channels, width * channels
    # What of a row of the box lies within the picture.
    inside = max(0, -left) * channels
    outside = max(inside, min(box_width, width - left) * channels)
    start = max(0, left) * channels
    row_out = np.zeros(length, np.uint8)
    if box_height == size and box_width == size:
        for y in range(size):
            new = out[y * length :][:length]
            if not 0 <= top + y < height:
                new[:] = 0
                continue
            row = pixels[(top + y) * stride + start :][: outside - inside]
            if flip and len(row) == length:
                _copy_mirrored(row, new, channels)
            elif flip:
                row_out[inside:outside] = row
                _copy_mirrored(row_out, new, channels)
            else:
                new[:inside] = 0
                part = new[inside:outside]
                for x in range(len(row)):
                    part[x] = row[x]
                new[outside:] = 0
        return
    first_y, weights_y = _triangles(box_height, size)
    first_x, few_weights = _triangles(box_width, size)
    places, weights_x = np.empty(length, np.uint32), np.empty((len(few_weights), length), np.float32)
    for x in range(length):
        places[x] = first_x[x // channels] * channels + x % channels
        for tap in range(len(few_weights)):
            weights_x[tap, x] = few_weights[tap, x // channels]
    taps = len(weights_y)
    line, total = np.zeros(box_width * channels, np.float32), np.zeros(length, np.float32)
    resized, done = np.zeros((taps, length), np.float32), -1
    for y in range(size):
        new = row_out if flip else out[y * length :][:length]
        if taps <= 2:  # enlarging: rows first, there are fewer of them before than after
            for number in range(max(done + 1, first_y[y]), first_y[y] + taps):
                if 0 <= top + number < height:
                    row = pixels[(top + number) * stride + start :][: outside - inside]
                    _widen(row, line[inside:outside])
                    _resize_row(line, weights_x, resized[number % taps], places, channels)
                else:
                    resized[number % taps] = 0
                done = number
            near, far = first_y[y], first_y[y] + taps - 1
            weight = weights_y[1, y] if taps == 2 else np.float32(0)
            _blend(resized[near % taps], resized[far % taps], weights_y[0, y], weight, new)
        else:
            line[:] = 0
            for tap in range(taps):
                number = top + first_y[y] + tap
                if 0 <= number < height:
                    row = pixels[number * stride + start :][: outside - inside]
                    _add(row, weights_y[tap, y], line[inside:outside])
            _resize_row(line, weights_x, total, places, channels)
            _round(total, new)
        if flip:
            _copy_mirrored(row_out, out[y * length :][:length], channels)


@njit("int64(int64, int64)", nogil=True)
def _mirror(place, size):  # type: ignore[no-untyped-def]
    """The pixel that mirroring at the border puts at a place beyond it."""
    return min(abs(place), 2 * (size - 1) - abs(place))


_RECORD = from_dtype(PHOTOMETRY)


@njit(types.float32[::1](_RECORD), nogil=True)
def _tone(p):  # type: ignore[no-untyped-def]
    """The table of brightness, contrast and gamma for the 256 grey levels."""
    table = np.empty(256, np.float32)
    for level in range(256):
        value = p.contrast * (p.brightness * level - 128) + 128
        table[level] = 255 * (min(max(value, 0.0), 255.0) / 255) ** p.gamma
    return table


@njit("void(uint8[::1], float32[::1], float32[::1])", nogil=True)
def _look_up(row, table, out):  # type: ignore[no-untyped-def]
    for x in range(len(out)):
        out[x] = table[row[x]]


@njit("void(float32[::1], int8[::1], float32, float32, int64)", nogil=True, fastmath=True)
def _add_texture(line, noise, share, haze, channels):  # type: ignore[no-untyped-def]
    """x * max(0, 1 + share n) + 255 haze n min(1, x / 16), with n the noise / 32, repeated."""
    share, haze = share / np.float32(32), haze * np.float32(255 / 32 / 16)
    if channels == 1:
        for begin in range(0, len(line), GRAIN_PERIOD):
            part = line[begin : begin + GRAIN_PERIOD]
            for x in range(len(part)):
                n, level = np.float32(noise[x]), part[x]
                part[x] = level * max(np.float32(0), np.float32(1) + share * n) + haze * n * min(level, np.float32(16))
        return
    for x in range(len(line)):
        n, level = np.float32(noise[(x // channels) % GRAIN_PERIOD]), line[x]
        line[x] = level * max(np.float32(0), np.float32(1) + share * n) + haze * n * min(level, np.float32(16))


@njit(
    types.void(types.uint8[::1], types.int64, types.int64, _RECORD, types.int8[:, ::1], types.int8[:, ::1]),
    nogil=True,
    fastmath=True,
)
def _develop(picture, size, channels, p, grain, texture):  # type: ignore[no-untyped-def]
    """Changes the grey levels of `picture` `[size, size, channels]`, flat, in place."""
    length = size * channels
    table = _tone(p)
    sigma = p.blur * size
    radius = min(int(np.ceil(3 * sigma)), size - 1)
    kernel = np.ones(2 * radius + 1, np.float32)
    for tap in range(len(kernel)):
        if radius:
            kernel[tap] = np.exp(-0.5 * ((tap - radius) / sigma) ** 2)
    kernel /= kernel.sum()
    blurred = np.zeros((size if radius else 0, length), np.float32)
    wide = np.empty((size + 2 * radius) * channels, np.float32)
    for y in range(len(blurred)):
        _look_up(picture[y * length :][:length], table, wide[radius * channels :][:length])
        for x in range(1, radius + 1):
            for channel in range(channels):
                wide[(radius - x) * channels + channel] = wide[(radius + x) * channels + channel]
                last = radius + size - 1
                wide[(last + x) * channels + channel] = wide[(last - x) * channels + channel]
        for tap in range(len(kernel)):
            _add(wide[tap * channels :][:length], kernel[tap], blurred[y])
    line, factors = np.empty(length, np.float32), np.empty(length, np.float32)
    for y in range(size):
        row = picture[y * length :][:length]
        if radius:
            line[:] = 0
            for tap in range(len(kernel)):
                _add(blurred[_mirror(y + tap - radius, size)], kernel[tap], line)
        else:
            _look_up(row, table, line)
        depth = np.float32(p.gain * np.exp(-p.attenuation * (y + 0.5) / size))
        factors[:] = depth
        if p.speckle > 0:
            strength = np.float32(p.speckle / 32)
            noise = grain[(p.grain_y + y) % GRAIN_PERIOD][p.grain_x :]
            if channels == 1:
                for begin in range(0, size, GRAIN_PERIOD):
                    part = factors[begin : begin + GRAIN_PERIOD]
                    for x in range(len(part)):
                        part[x] *= max(np.float32(0), np.float32(1) + strength * noise[x])
            else:
                for x in range(length):
                    factors[x] *= max(np.float32(0), np.float32(1) + strength * noise[(x // channels) % GRAIN_PERIOD])
        for x in range(length):
            line[x] *= factors[x]
        if p.texture > 0 or p.haze > 0:
            noise = texture[(p.grain_y + y) % GRAIN_PERIOD][p.grain_x :]
            _add_texture(line, noise, p.texture, p.haze, channels)
        _round(line, row)


@njit(
    types.void(
        types.int64[::1],
        types.int64[:, ::1],
        types.int64[:, ::1],
        types.boolean[::1],
        _RECORD[::1],
        types.int8[:, ::1],
        types.int8[:, ::1],
        types.int64[::1],
        types.uint8[:, :, :, ::1],
    ),
    nogil=True,
)
def _render(addresses, shapes, boxes, flips, photometry, grain, texture, places, out_NHWC):  # type: ignore[no-untyped-def]
    size, channels = out_NHWC.shape[1], out_NHWC.shape[3]
    for number in range(len(addresses)):
        height, width = shapes[number]
        pixels = carray(_pointer(addresses[number]), (height * width * channels,))
        out = out_NHWC[places[number]].reshape(size * size * channels)
        _crop(pixels, height, width, boxes[number], flips[number], size, channels, out)
        p = photometry[number]
        tone = p.brightness != 1 or p.contrast != 1 or p.gamma != 1
        textured = p.speckle > 0 or p.texture > 0 or p.haze > 0
        if tone or p.blur > 0 or p.gain != 1 or p.attenuation != 0 or textured:
            _develop(out, size, channels, p, grain, texture)
