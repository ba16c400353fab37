"""Makes ultrasound-like videos: a 3D organ phantom scanned by a sweeping, trembling convex probe.

    python tools/make_phantoms.py OUT

writes OUT/*.mp4 (H.264), OUT/labels.csv (video, label, group) and OUT/frames.csv (the truth frame by frame). Labels are
`normal` (no lesion), `benign` (a smooth one) and `malignant` (an irregular one that shadows); a group is a patient with
one anatomy. What frames.csv says of each frame:

    label        `normal` where the lesion covers less than `VISIBLE` of the sector, or lies in shadow
    value        the lumen's share of the sector
    lesion_area  the lesion's share of the sector, as far as it lies in no shadow
    position     of the probe along the sweep in the body, about -1 to 1: alike in both sweeps of a patient

Both are read by `usucl-shard OUT SHARDS --labels OUT/labels.csv --labels OUT/frames.csv`. With `--machines N`, each
video is as one of N machines shows it: another gain, gamma, dynamic range, gain over depth, sharpness, texture, angle
and depth, and at times a frozen picture or lost contact.

The picture of a frame is made in probe coordinates (depth x scan line) and converted to a sector:

1.  Tissue along every scan line: echogenicity and attenuation of lumen, wall, parenchyma, lesion, rib.
2.  Speckle: circular complex Gaussian scatterers fixed in the body, filtered by a point-spread function that
    is widest away from the focus, so the envelope is Rayleigh distributed (fully developed speckle;
    Goodman, "Speckle Phenomena in Optics", chapter 3) and moves with the tissue.
3.  Attenuation accumulated along the line, with the machine's own depth compensation: shadows behind what
    attenuates more than average, enhancement behind the lumen.
4.  Log compression, scan conversion, what the machine makes of it, static text and a ruler outside the sector.

Lengths are in mm: x to the right, y down from the probe, z along the sweep.
"""

import csv
import math
import multiprocessing
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import av
import click
import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from PIL import Image, ImageDraw

from usucl_fast.machine import cores
from usucl_fast.progress import Progress

LABELS = ("normal", "benign", "malignant")
VIDEOS_PER_PATIENT = 2

DEPTH = 120.0
PROBE_RADIUS = 40.0
HALF_ANGLE = math.radians(30)
VISIBLE = 0.004
"""Share of the sector from which on a lesion is visible."""
DARK = 25.0  # dB that shadows take, beyond which a lesion is not seen
BEAM_THICKNESS = 6.0  # in scatterer spacings
TILE = 96  # voxels of a noise volume along a side; it repeats
DYNAMIC_RANGE = 55.0  # dB


@dataclass(frozen=True)
class Machine:
    """How an ultrasound machine shows what it sees; as it is, the one machine that all videos are of by default.

    ramp: gain over depth, as a share, from -ramp at the top to ramp at the bottom.
    blur: in pixels.
    texture: share of a fixed pattern of several scales, drawn with `seed`.
    yaw: how the probe is held, turned about its axis, in radians.
    freezes, slips: whether its pictures freeze for a while, whether the probe loses contact on one side.
    """

    name: str = "PHANTOM"
    half_angle: float = HALF_ANGLE
    depth: float = DEPTH
    dynamic_range: float = DYNAMIC_RANGE
    gain: float = 0.0
    gamma: float = 1.0
    ramp: float = 0.0
    blur: float = 0.0
    texture: float = 0.0
    yaw: float = 0.0
    freezes: bool = False
    slips: bool = False
    seed: int = 0


STANDARD = Machine()


def draw_machine(seed: int, number: int) -> Machine:
    """Draws a machine; equal arguments, equal machine."""
    rng = np.random.default_rng([seed, 1 << 20, number])
    return Machine(
        name=f"US-{number:02d}",
        half_angle=math.radians(rng.uniform(22, 36)),
        depth=rng.uniform(100, 140),
        dynamic_range=rng.uniform(48, 64),
        gain=rng.uniform(-4, 4),
        gamma=math.exp(rng.uniform(-0.4, 0.4)),
        ramp=rng.uniform(-0.3, 0.3),
        blur=rng.uniform(0, 0.8),
        texture=0.1,
        yaw=rng.uniform(-0.3, 0.3),
        freezes=bool(rng.random() < 0.25),
        slips=bool(rng.random() < 0.25),
        seed=seed + number,
    )


@dataclass(frozen=True)
class Anatomy:
    """One patient's organ."""

    label: str
    center: np.ndarray  # of the lumen
    axes: np.ndarray  # half axes of the lumen
    turn: float  # of the lumen in the x-y plane, radians
    wall: float  # thickness
    lesion: np.ndarray  # center
    lesion_radius: float
    rib: float  # x of a rib's axis
    parenchyma: float  # echogenicity
    attenuation: float  # dB per mm, there and back
    gain: float  # dB
    scatterers: torch.Tensor  # [1, 2, TILE + 1, ...], real and imaginary part
    texture: torch.Tensor  # [1, 1, TILE + 1, ...], smooth, about -1 .. 1


def draw_anatomy(seed: int, patient: int, label: str) -> Anatomy:
    """Draws the anatomy of a patient; equal arguments, equal anatomy."""
    rng = np.random.default_rng([seed, patient])
    axes = rng.uniform((20, 11, 26), (28, 17, 38))
    center = np.array([rng.uniform(-12, 12), rng.uniform(48, 66), rng.uniform(-6, 6)])
    turn = rng.uniform(-0.5, 0.5)
    # The lesion sits on the wall farthest from the probe, somewhere along the sweep.
    along = rng.uniform(-0.4, 0.4)
    on_wall = np.array([axes[0] * along, axes[1] * math.sqrt(1 - along**2) * 0.92, 0.0])
    lesion = center + _turn(on_wall, turn) + np.array([0, 0, rng.uniform(-10, 10)])
    return Anatomy(
        label=label,
        center=center,
        axes=axes,
        turn=turn,
        wall=rng.uniform(1.8, 3.0),
        lesion=lesion,
        lesion_radius=rng.uniform(6, 9) if label == "benign" else rng.uniform(9, 13),
        rib=rng.choice([-1, 1]) * rng.uniform(24, 40),
        parenchyma=rng.uniform(0.25, 0.5),
        attenuation=rng.uniform(0.2, 0.28),
        gain=rng.uniform(-4, 4),
        scatterers=_noise(rng, channels=2, smooth=0),
        texture=_noise(rng, channels=1, smooth=2),
    )


def _turn(p: np.ndarray, angle: float) -> np.ndarray:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([c * p[0] - s * p[1], s * p[0] + c * p[1], p[2]])


def _noise(rng: Generator, channels: int, smooth: int) -> torch.Tensor:
    volume = torch.from_numpy(rng.standard_normal((1, channels, TILE, TILE, TILE), dtype=np.float32))
    for _ in range(smooth):
        volume = F.avg_pool3d(F.pad(volume, (2,) * 6, mode="circular"), 5, stride=1)
    volume /= volume.std()
    return F.pad(volume, (0, 1) * 3, mode="circular")  # so that interpolation wraps around


def _sample(volume: torch.Tensor, points: torch.Tensor, pitch: float) -> torch.Tensor:
    """Interpolates a repeating volume, whose voxels are `pitch` mm, at `points` `[S, L, 3]` -> `[channels, S, L]`."""
    place = torch.remainder(points / pitch, TILE) * (2 / TILE) - 1
    return F.grid_sample(volume, place[None, None], align_corners=True)[0, :, 0]


class Tissue(NamedTuple):
    """What is at some points, `[S, L]` each: echogenicity (relative), attenuation (dB per mm), lumen, lesion."""

    echo: torch.Tensor
    attenuation: torch.Tensor
    in_lumen: torch.Tensor
    in_lesion: torch.Tensor


def tissue(anatomy: Anatomy, points: torch.Tensor) -> Tissue:
    """What is at `points` `[S, L, 3]`."""
    rough = _sample(anatomy.texture, points, pitch=1.3)[0]
    x, y, z = (points - torch.from_numpy(anatomy.center).float()).unbind(-1)
    c, s = math.cos(anatomy.turn), math.sin(anatomy.turn)
    a, b, d = anatomy.axes
    local = torch.stack([(c * x + s * y) / a, (-s * x + c * y) / b, z / d], dim=-1)
    reach = local.norm(dim=-1).clamp_min(1e-3)
    outside = (reach - 1) * torch.stack([x, y, z], dim=-1).norm(dim=-1) / reach  # mm beyond the lumen's surface

    echo = anatomy.parenchyma * torch.exp(0.35 * rough)
    attenuation = torch.full_like(echo, anatomy.attenuation)
    vessel = ((rough > 1.4) & (outside > 8)).float()
    echo = echo * (1 - 0.9 * vessel)
    in_wall = (outside >= 0) & (outside < anatomy.wall)
    echo = torch.where(in_wall, 1.3, echo)
    in_lumen = outside < 0
    echo = torch.where(in_lumen, 0.004, echo)
    attenuation = torch.where(in_lumen, 0.01, attenuation)

    in_lesion = torch.zeros_like(in_lumen)
    from_lesion = (points - torch.from_numpy(anatomy.lesion).float()).norm(dim=-1)
    if anatomy.label == "benign":
        in_lesion = from_lesion < anatomy.lesion_radius
        echo = torch.where(in_lesion, 0.55 * torch.exp(0.1 * rough), echo)
    elif anatomy.label == "malignant":
        in_lesion = from_lesion < anatomy.lesion_radius * (1 + 0.45 * rough.clamp(-1.5, 1.5))
        fine = _sample(anatomy.texture, points + 31.0, pitch=0.7)[0]
        echo = torch.where(in_lesion, 0.3 * torch.exp(0.8 * fine), echo)
        attenuation = torch.where(in_lesion, 0.7, attenuation)

    to_rib = torch.hypot((points[..., 0] - anatomy.rib) / 5, (points[..., 1] - 12) / 2.5)
    echo = torch.where((to_rib < 1) & (points[..., 1] < 12), 3.0, echo)
    attenuation = torch.where(to_rib < 1, 8.0, attenuation)
    return Tissue(echo, attenuation, in_lumen, in_lesion)


def scan_points(
    tilt: float, turn: float, shift: np.ndarray, machine: Machine = STANDARD, samples: int = 320, lines: int = 128
) -> torch.Tensor:
    """Where the scan lines run in the body, `[samples, lines, 3]` in mm.

    tilt: of the scan plane along the sweep, turn: about the probe's axis, radians; shift: of the probe, mm.
    samples, lines: along depth, across the sector; as many as the picture needs.
    """
    depth = torch.linspace(0, machine.depth, samples)[:, None]
    angle = torch.linspace(-machine.half_angle, machine.half_angle, lines)[None, :]
    x = (PROBE_RADIUS + depth) * torch.sin(angle)
    y = (PROBE_RADIUS + depth) * torch.cos(angle) - PROBE_RADIUS
    body = torch.stack([x * math.cos(turn), y * math.cos(tilt), x * math.sin(turn) + y * math.sin(tilt)], dim=-1)
    return body + torch.from_numpy(shift).float()


def echo_lines(
    anatomy: Anatomy, points: torch.Tensor, gain: float, machine: Machine = STANDARD
) -> tuple[torch.Tensor, Tissue]:
    """Brightness in 0 .. 1 along the scan lines, `[S, L]`, and what is there, the lesion where no shadow is."""
    at = tissue(anatomy, points)
    step = machine.depth / (len(points) - 1)
    lost = torch.cumsum(at.attenuation, dim=0) * step
    compensated = anatomy.attenuation * 0.92 * step * torch.arange(len(points))[:, None]
    # The beam is a few mm thick across the scan plane: speckle changes slowly along the sweep.
    thick = points * torch.tensor([1, 1, 1 / BEAM_THICKNESS])
    field = _sample(anatomy.scatterers, thick, pitch=0.55) * torch.sqrt(at.echo)
    envelope = _point_spread(field).square().sum(0).sqrt()
    decibel = 20 * torch.log10(envelope + 1e-4) - lost + compensated + anatomy.gain + gain + machine.gain
    brightness = ((decibel + 0.72 * DYNAMIC_RANGE) / machine.dynamic_range).clamp(0, 1)
    return brightness, at._replace(in_lesion=at.in_lesion & (lost - compensated < DARK))


def _point_spread(field: torch.Tensor) -> torch.Tensor:
    """Filters `[2, S, L]`: a short pulse along depth, a beam that is widest away from the focus."""
    samples, lines = field.shape[1:]
    pulse = _gaussian(0.9 * samples / 320)
    field = F.conv2d(field[:, None], pulse[None, None, :, None], padding=(len(pulse) // 2, 0))
    widths = [width * lines / 128 for width in (0.7, 1.3, 2.4)]
    beams = []
    for width in widths:
        beam = _gaussian(width)
        beams.append(F.conv2d(field, beam[None, None, None, :], padding=(0, len(beam) // 2))[:, 0])
    focus = 0.5
    defocus = (torch.linspace(0, 1, samples) - focus).abs()[:, None] / focus * (len(widths) - 1)
    low = defocus.floor().clamp(max=len(widths) - 2)
    stack = torch.stack(beams)
    part = defocus - low
    near, far = low.long().expand(-1, field.shape[-1]), (low.long() + 1).expand(-1, field.shape[-1])
    pick = [torch.gather(stack, 0, index.expand(1, 2, -1, -1))[0] for index in (near, far)]
    return pick[0] * (1 - part) + pick[1] * part


def _gaussian(width: float) -> torch.Tensor:
    reach = math.ceil(3 * width)
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / width) ** 2)
    return taps / taps.square().sum().sqrt()  # keeps the power of white noise


def sector_grid(height: int, width: int, machine: Machine = STANDARD) -> torch.Tensor:
    """For scan conversion: where each pixel lies among the scan lines, `[1, height, width, 2]`; outside: beyond 1."""
    top = PROBE_RADIUS * math.cos(machine.half_angle)
    pitch = (PROBE_RADIUS + machine.depth - top) / (height - 12)
    y = (torch.arange(height) - 6)[:, None] * pitch + top
    x = (torch.arange(width) - (width - 1) / 2)[None, :] * pitch
    depth = torch.hypot(x, y) - PROBE_RADIUS
    angle = torch.atan2(x.expand(height, -1), y.expand(-1, width))
    return torch.stack([angle / machine.half_angle, depth / machine.depth * 2 - 1], dim=-1)[None]


def overlay(height: int, width: int, lines: list[str]) -> np.ndarray:
    """Text in the upper corner and a ruler at the right edge, uint8 `[height, width]`."""
    image = Image.new("L", (width, height))
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        draw.text((4, 3 + 12 * number), line, fill=200)
    for tick in range(13):
        y = 6 + round(tick * (height - 13) / 12)
        draw.line((width - (9 if tick % 5 == 0 else 6), y, width - 3, y), fill=180)
    return np.asarray(image)


def machine_texture(height: int, width: int, machine: Machine) -> torch.Tensor:
    """A pattern of three scales that is the machine's own, of deviation 1, `[height, width]`."""
    noise = torch.Generator().manual_seed(machine.seed)
    total = torch.zeros(1, 1, height, width)
    for scale in (1, 4, 12):
        coarse = torch.randn(1, 1, -(-height // scale) + 1, -(-width // scale) + 1, generator=noise)
        total += F.interpolate(coarse, size=(height, width), mode="bilinear")
    return (total / total.std())[0, 0]


class Look:
    """What a machine makes of the brightness along its scan lines: its pictures."""

    def __init__(self, height: int, width: int, machine: Machine) -> None:
        self._machine, self._grid = machine, sector_grid(height, width, machine)
        self.inside = (self._grid.abs() <= 1).all(dim=-1)[0]
        self._texture = machine_texture(height, width, machine) if machine.texture else None

    def share(self, mask: torch.Tensor) -> float:
        """The share of the sector's pixels that a mask along the scan lines `[S, L]` covers."""
        shown = F.grid_sample(mask.float()[None, None], self._grid, mode="nearest", align_corners=True)[0, 0]
        return float(shown[self.inside].mean())

    def picture(self, lines: torch.Tensor) -> np.ndarray:
        """uint8 `[height, width]` of brightness `[S, L]`."""
        machine = self._machine
        shown = F.grid_sample(lines[None, None], self._grid, align_corners=True, padding_mode="zeros")[0, 0]
        if machine.gamma != 1:
            shown = shown**machine.gamma
        if machine.ramp:
            shown = shown * (1 + machine.ramp * self._grid[0, ..., 1].clamp(-1, 1))
        if machine.blur:
            taps = _gaussian(machine.blur)
            taps = (taps / taps.sum())[None, None]
            around = len(taps[0, 0]) // 2
            shown = F.conv2d(shown[None, None], taps[..., None], padding=(around, 0))
            shown = F.conv2d(shown, taps[..., None, :], padding=(0, around))[0, 0]
        if self._texture is not None:
            shown = shown * (1 + machine.texture * self._texture) + 0.2 * machine.texture * self._texture * (shown > 0)
        return ((shown.clamp(0, 1) * self.inside) * 255).round().to(torch.uint8).numpy()


class Truth(NamedTuple):
    """What a frame shows; see the first lines of this file."""

    label: str
    value: float
    lesion_area: float
    position: float


class Phantom(NamedTuple):
    """One video: frames uint8 `[frames, height, width]`, frames per second, label, group, and the truth a frame."""

    pictures: np.ndarray
    rate: float
    label: str
    group: str
    truth: list[Truth]


def make_video(seed: int, number: int, frames: int, height: int, width: int, machine: Machine = STANDARD) -> Phantom:
    """Scans one video."""
    torch.set_num_threads(1)
    patient = number // VIDEOS_PER_PATIENT
    anatomy = draw_anatomy(seed, patient, LABELS[patient % len(LABELS)])
    rng = np.random.default_rng([seed, patient, number])
    rate = float(rng.choice([15, 20, 25, 30]))
    gain = rng.uniform(-3, 3)
    reach, tilt = rng.uniform(22, 30), rng.uniform(0.1, 0.25)
    direction = rng.choice([-1, 1])
    phases = rng.uniform(0, 2 * math.pi, 6)
    look = Look(height, width, machine)
    text = overlay(
        height, width, [f"{machine.name} {patient:02d}", f"{rate:.0f} Hz", f"MI {rng.uniform(0.7, 1.4):.1f}"]
    )
    samples, lines = max(96, round(height * 4 / 3)), max(48, round(width * 0.4))
    still = rng.integers(frames) if machine.freezes else frames  # the frame after which the picture stands for a while
    slipped = rng.integers(frames) if machine.slips else frames
    pictures, truth = np.empty((frames, height, width), np.uint8), []
    for index in range(frames):
        moment = still if still < index < still + frames // 8 else index
        at = 2 * moment / max(1, frames - 1) - 1  # -1 .. 1 along the sweep
        seconds = moment / rate
        tremble = [math.sin(2 * math.pi * f * seconds + p) for f, p in zip((0.9, 1.7, 2.6), phases, strict=False)]
        breath = 2.5 * math.sin(2 * math.pi * 0.25 * seconds + phases[3])
        shift = np.array([1.2 * tremble[0], breath, direction * at * reach + 0.5 * tremble[1]])
        turn = machine.yaw + 0.02 * tremble[0]
        points = scan_points(direction * at * tilt + 0.008 * tremble[2], turn, shift, machine, samples, lines)
        brightness, found = echo_lines(anatomy, points, gain, machine)
        if slipped <= moment < slipped + frames // 6:
            brightness[:, : lines // 3] *= 0.1
            found.in_lesion[:, : lines // 3] = False
        pictures[index] = np.maximum(look.picture(brightness), text)
        lesion = look.share(found.in_lesion)
        label = anatomy.label if lesion >= VISIBLE else LABELS[0]
        truth.append(Truth(label, look.share(found.in_lumen), lesion, float(shift[2]) / 30))
    return Phantom(pictures, rate, anatomy.label, f"patient-{patient:02d}", truth)


def write_mp4(path: Path, pictures: np.ndarray, rate: float) -> None:
    """Writes grey pictures uint8 `[frames, height, width]` as H.264."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=round(rate), options={"crf": "18", "preset": "veryfast"})
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = pictures.shape[1:]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="gray")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def frame_correlation(pictures: np.ndarray, distance: int) -> float:
    """Mean correlation of pictures `distance` apart, over the pixels that ever change."""
    pixels = pictures.reshape(len(pictures), -1).astype(np.float32)
    pixels = pixels[:, pixels.min(0) != pixels.max(0)]
    pixels -= pixels.mean(1, keepdims=True)
    pixels /= np.linalg.norm(pixels, axis=1, keepdims=True)
    return float((pixels[:-distance] * pixels[distance:]).sum(1).mean())


def machine_of(seed: int, number: int, machines: int) -> Machine:
    """The machine that a video is of: one of so many, or, where these are 0, its own."""
    if machines == 1:
        return STANDARD
    chosen = number if machines == 0 else int(np.random.default_rng([seed, 1 << 21, number]).integers(machines))
    return draw_machine(seed, chosen)


def machine_sheet(seed: int, height: int, width: int) -> np.ndarray:
    """Five frames of one sweep as each of eight machines shows it, four machines below each other, uint8 grey."""
    rows = [make_video(seed, 8, 24, height, width, draw_machine(seed, number)).pictures for number in range(8)]
    strips = [np.concatenate(list(pictures[[3, 8, 12, 16, 20]]), axis=1) for pictures in rows]
    return np.concatenate([np.concatenate(strips[:4]), np.concatenate(strips[4:])], axis=1)


class _Made(NamedTuple):
    name: str
    label: str
    group: str
    truth: list[Truth]
    near: float
    far: float


def _make(job: tuple[Path, int, int, int, int, int, int]) -> _Made:
    out, seed, number, frames, height, width, machines = job
    made = make_video(seed, number, frames, height, width, machine_of(seed, number, machines))
    name = f"phantom-{number:03d}.mp4"
    write_mp4(out / name, made.pictures, made.rate)
    near, far = (frame_correlation(made.pictures, apart) for apart in (1, max(1, frames // 3)))
    return _Made(name, made.label, made.group, made.truth, near, far)


def _write_csv(path: Path, header: list[str], rows: Iterable[Iterable[object]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--videos", default=24, show_default=True, type=click.IntRange(1), help="Two of each patient.")
@click.option("--frames", default=96, show_default=True, type=click.IntRange(2), help="Frames a video.")
@click.option("--width", default=320, show_default=True, type=click.IntRange(64))
@click.option("--height", default=240, show_default=True, type=click.IntRange(48))
@click.option("--machines", default=1, show_default=True, type=click.IntRange(0), help="0: every video has its own.")
@click.option("--sheet", type=click.Path(path_type=Path), help="PNG: one sweep as eight machines show it.")
@click.option("--seed", default=0, show_default=True)
def main(
    out: Path, videos: int, frames: int, width: int, height: int, machines: int, sheet: Path | None, seed: int
) -> None:
    """Makes ultrasound-like videos, their labels.csv and frames.csv in the folder OUT."""
    if sheet:
        Image.fromarray(machine_sheet(seed, height, width)).save(sheet, optimize=True)
    out.mkdir(parents=True, exist_ok=True)
    jobs = [(out, seed, number, frames, height, width, machines) for number in range(videos)]
    made: list[_Made] = []
    with (
        multiprocessing.get_context("spawn").Pool(min(videos, cores())) as pool,
        Progress("videos", videos) as progress,
    ):
        for one in pool.imap(_make, jobs):
            made.append(one)
            progress.advance(frames=len(made) * frames)
    _write_csv(out / "labels.csv", ["video", "label", "group"], (row[:3] for row in made))
    truth = ((one.name, number, *frame) for one in made for number, frame in enumerate(one.truth))
    _write_csv(out / "frames.csv", ["video", "frame", *Truth._fields], (map(_short, row) for row in truth))
    near, far = np.mean([one.near for one in made]), np.mean([one.far for one in made])
    click.echo(
        f"{out}: {videos} videos of {frames} frames; mean correlation of frames 1 apart {near:.2f},"
        f" {max(1, frames // 3)} apart {far:.2f}"
    )


def _short(cell: object) -> object:
    return f"{cell:.5f}" if isinstance(cell, float) else cell


if __name__ == "__main__":
    main()
