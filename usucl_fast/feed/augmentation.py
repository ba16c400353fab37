"""Augmentation as data: what may be done to a picture, drawn in the plan; named sets of it.

What a loader makes of the draws, for a frame and each of its channels:

1. Its box is cut out, black where the box reaches beyond the frame, resized to `size` x `size` pixels (bilinear,
   antialiased), mirrored if drawn, and rounded to 8 bits.
2. tone   t = clip(contrast (brightness x - 128) + 128, 0, 255), then x = 255 (t / 255)^gamma
3. blur   with a Gaussian of standard deviation `blur` x size pixels, out to three of them, mirrored at the border
4. depth  x gain exp(-attenuation (row + 1/2) / size): the receive gain, and the echo lost on the way down
5. speckle  x max(0, 1 + speckle n), n the grain (`GRAIN`), taken from (grain_y, grain_x) on and repeated
6. texture  x max(0, 1 + texture n) + 255 haze n min(1, x / 16), n the noise of `texture`, taken and repeated as the
   grain is; what is added fades out below level 16, so that black stays black
7. It is clipped to 0 ... 255 and rounded to 8 bits.

Sources: 2 and 3, MoCo v2 (Chen et al., arXiv 2003.04297), with a fixed centre of contrast; boxes that keep the beam's
shape, and gain over depth, Singla et al., "Speckle and Shadows", MIDL 2022; attenuation, Østvik et al. 2021, there
along the beams; compared by Tupper and Gagné, "Revisiting Data Augmentation for Ultrasound Images", arXiv 2501.13193.
Black stays black, and so the sector its shape, in all but contrast.
"""

import functools
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

PHOTOMETRY = np.dtype(
    [
        ("brightness", "<f4"),
        ("contrast", "<f4"),
        ("gamma", "<f4"),
        ("blur", "<f4"),  # standard deviation as a share of the picture's side
        ("gain", "<f4"),
        ("attenuation", "<f4"),
        ("speckle", "<f4"),  # standard deviation of the factor
        ("grain_y", "<i4"),
        ("grain_x", "<i4"),
        ("texture", "<f4"),  # standard deviation of the factor
        ("haze", "<f4"),  # standard deviation of what is added, as a share of white
    ]
)
"""What is done to the grey levels of one picture."""

UNCHANGED = np.array((1, 1, 1, 0, 1, 0, 0, 0, 0, 0, 0), PHOTOMETRY)
"""Nothing."""

GRAIN_PERIOD = 512
BOX_DRAWS, PHOTOMETRY_DRAWS, LOOK_DRAWS = 5, 13, 4
"""Uniform draws a picture."""

Range = tuple[float, float]


@dataclass(frozen=True)
class Augmentation:
    """What may be done to a picture. Ranges are drawn from evenly, a chance is that of an operation being used at all.

    area: the box's share of the largest centred square.
    ratio: the box's width over its height, evenly in the logarithm.
    whole: boxes are shares of the smallest square around the frame instead, shifted off its centre by `shift`, so that
        the sector stays in sight; they may reach beyond the frame.
    shift: greatest shift as a share of the frame's height and width.
    flip: chance of mirroring left and right.
    log_gamma, ramp, texture, haze: another machine's look, drawn for every picture, without a chance: gamma times e to
        the first; gain of e^ramp at the top, 1 in the middle and e^-ramp at the bottom; and the texture.
    """

    area: Range = (1.0, 1.0)
    ratio: Range = (1.0, 1.0)
    whole: bool = False
    shift: float = 0.0
    flip: float = 0.0
    tone_chance: float = 0.0
    brightness: Range = (1.0, 1.0)
    contrast: Range = (1.0, 1.0)
    gamma: Range = (1.0, 1.0)
    blur_chance: float = 0.0
    blur: Range = (0.0, 0.0)
    depth_chance: float = 0.0
    gain: Range = (1.0, 1.0)
    attenuation: Range = (0.0, 0.0)
    speckle_chance: float = 0.0
    speckle: Range = (0.0, 0.0)
    log_gamma: Range = (0.0, 0.0)
    ramp: Range = (0.0, 0.0)
    texture: Range = (0.0, 0.0)
    haze: Range = (0.0, 0.0)

    @property
    def changes_look(self) -> bool:
        """Whether any picture's gamma, gain or texture is that of another machine."""
        return any(any(getattr(self, name)) for name in _LOOK)


_GEOMETRIC = Augmentation(area=(0.6, 1.2), ratio=(0.9, 1 / 0.9), whole=True, shift=0.1, flip=0.5)

AUGMENTATIONS = {
    # The published one: crops along the long side.
    "reference": Augmentation(),
    "crops": Augmentation(area=(0.4, 1.0), flip=0.5),
    # MoCo v2's, for pictures of 224 pixels; what it does to colours does not apply to grey levels.
    "mocov2": Augmentation(
        area=(0.2, 1.0),
        ratio=(3 / 4, 4 / 3),
        flip=0.5,
        tone_chance=0.8,
        brightness=(0.6, 1.4),
        contrast=(0.6, 1.4),
        blur_chance=0.5,
        blur=(0.1 / 224, 2 / 224),
    ),
    # The same slice, held a little differently: grey levels, by which small findings are known, stay as they are.
    "geometric": _GEOMETRIC,
    # And with another gain: gamma, and a ramp over depth.
    "gain": replace(
        _GEOMETRIC,
        log_gamma=(-0.4, 0.4),
        ramp=(-0.3, 0.3),
    ),
    # What another probe, machine or setting does to the same slice.
    "ultrasound": replace(
        _GEOMETRIC,
        tone_chance=0.8,
        gamma=(0.6, 1.6),
        blur_chance=0.3,
        blur=(0.2 / 224, 1.5 / 224),
        depth_chance=0.8,
        gain=(0.7, 1.4),
        attenuation=(-0.5, 1.0),
        speckle_chance=0.5,
        speckle=(0.02, 0.15),
    ),
    # The same slice as other machines show it, where a machine's look identifies patients. The widest blur is that of
    # a mean over 3 x 3 of 96 x 96 pixels.
    "look": replace(
        _GEOMETRIC,
        blur_chance=1.0,
        blur=(0.0, 0.8 / 96),
        log_gamma=(-0.4, 0.4),
        ramp=(-0.3, 0.3),
        texture=(0.0, 0.1),
        haze=(0.0, 0.02),
    ),
}
"""By name."""


def draw_boxes(
    size: NDArray[np.int64], augmentation: Augmentation, draws: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Draws where pictures are cut out, and whether they are mirrored.

    Args:
        size: `[B, 1, 2]`, height and width of the frames in pixels.
        augmentation: how.
        draws: `[B, V, BOX_DRAWS]`, uniform in [0, 1).

    Returns:
        boxes `[B, V, 4]` (top, left, height, width in pixels of the frame) and flips `[B, V]`.
    """
    area, low, high = _between(augmentation.area, draws[..., 0]), *np.log(augmentation.ratio)
    stretch = np.exp(_between((low, high), draws[..., 1]) / 2)[..., None] ** np.array([-1, 1])
    square = size.max(axis=-1) if augmentation.whole else size.min(axis=-1)
    box = np.maximum(1, np.rint((square * np.sqrt(area))[..., None] * stretch)).astype(np.int64)
    if augmentation.whole:
        off = (2 * draws[..., 2:4] - 1) * augmentation.shift * size
        start = np.rint((size - box) / 2 + off).astype(np.int64)
    else:
        box = np.minimum(box, size)
        start = np.floor(draws[..., 2:4] * (size - box + 1)).astype(np.int64)
    return np.concatenate([start, box], axis=-1), draws[..., 4] < augmentation.flip


def draw_photometry(augmentation: Augmentation, draws: NDArray[np.float64]) -> NDArray[np.void]:
    """Draws what is done to the grey levels.

    Args:
        augmentation: how.
        draws: `[B, V, PHOTOMETRY_DRAWS]`, uniform in [0, 1), and `LOOK_DRAWS` more where it changes the look.

    Returns:
        `PHOTOMETRY` `[B, V]`.
    """
    drawn = np.full(draws.shape[:-1], UNCHANGED)
    used = {name: draws[..., n] < getattr(augmentation, f"{name}_chance") for n, name in enumerate(_OPERATIONS)}
    column = len(_OPERATIONS)
    for operation, fields in _OPERATIONS.items():
        for field in fields:
            value = _between(getattr(augmentation, field), draws[..., column])
            drawn[field] = np.where(used[operation], value, UNCHANGED[field])
            column += 1
    textured = any(augmentation.texture + augmentation.haze)
    for field in ("grain_y", "grain_x"):
        drawn[field] = np.where(used["speckle"] | textured, draws[..., column] * GRAIN_PERIOD, 0)
        column += 1
    if augmentation.changes_look:
        look = {name: _between(getattr(augmentation, name), draws[..., column + n]) for n, name in enumerate(_LOOK)}
        drawn["gamma"] *= np.exp(look["log_gamma"])
        drawn["gain"] *= np.exp(look["ramp"])
        drawn["attenuation"] += 2 * look["ramp"]
        drawn["texture"], drawn["haze"] = look["texture"], look["haze"]
    return drawn


_OPERATIONS = {
    "tone": ("brightness", "contrast", "gamma"),
    "blur": ("blur",),
    "depth": ("gain", "attenuation"),
    "speckle": ("speckle",),
}


_LOOK = ("log_gamma", "ramp", "texture", "haze")
TEXTURED = ("texture", "haze")
"""The fields of `PHOTOMETRY` by which there is a texture."""


def _between(bounds: Range, draws: NDArray[np.float64]) -> NDArray[np.float64]:
    return bounds[0] + (bounds[1] - bounds[0]) * draws


def _noise(key: int, width: float) -> NDArray[np.float64]:
    """Noise of standard deviation 1, grains of about `width` pixels: white noise through a Gaussian of half that,
    around the border."""
    white = np.random.Generator(np.random.Philox(key=[key, 0])).standard_normal((GRAIN_PERIOD, GRAIN_PERIOD))
    wave = np.fft.fftfreq(GRAIN_PERIOD)
    low_pass = np.exp(-2 * (np.pi * width / 2) ** 2 * (wave[:, None] ** 2 + wave[None, :] ** 2))
    noise = np.fft.ifft2(np.fft.fft2(white) * low_pass).real
    return np.asarray(noise / noise.std())


def _in_bytes(noise: NDArray[np.float64]) -> NDArray[np.int8]:
    return np.clip(np.rint(32 * noise / noise.std()), -127, 127).astype(np.int8)


GRAIN = _in_bytes(_noise(0, 2))
"""The speckle's grain, int8 `[GRAIN_PERIOD, GRAIN_PERIOD]`: 32 n, n of mean 0 and standard deviation 1, alike in all
directions, grains of about two pixels. It is one for all, so that every loader takes the same."""


@functools.cache
def texture() -> NDArray[np.int8]:
    """Another machine's texture, in the form of `GRAIN`: noise of one, four and twelve pixels together."""
    return _in_bytes(_noise(1, 0) + _noise(2, 4) + _noise(3, 12))
