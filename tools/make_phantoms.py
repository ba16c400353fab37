"""Makes ultrasound-like videos: a 3D organ phantom scanned by a sweeping, trembling convex probe.

    python tools/make_phantoms.py OUT

writes OUT/*.mp4 (H.264) and OUT/labels.csv (video, label, group). Labels are `normal` (no lesion), `benign`
(a smooth one) and `malignant` (an irregular one that shadows); a group is a patient with one anatomy.

The picture of a frame is made in probe coordinates (depth x scan line) and converted to a sector:

1.  Tissue along every scan line: echogenicity and attenuation of lumen, wall, parenchyma, lesion, rib.
2.  Speckle: circular complex Gaussian scatterers fixed in the body, filtered by a point-spread function that
    is widest away from the focus, so the envelope is Rayleigh distributed (fully developed speckle;
    Goodman, "Speckle Phenomena in Optics", chapter 3) and moves with the tissue.
3.  Attenuation accumulated along the line, with the machine's own depth compensation: shadows behind what
    attenuates more than average, enhancement behind the lumen.
4.  Log compression, scan conversion, static text and a ruler outside the sector.

Lengths are in mm: x to the right, y down from the probe, z along the sweep.
"""

import csv
import math
import multiprocessing
from dataclasses import dataclass
from pathlib import Path

import av
import click
import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from PIL import Image, ImageDraw

from usucl_fast.machine import cores

LABELS = ("normal", "benign", "malignant")
VIDEOS_PER_PATIENT = 2

DEPTH = 120.0
PROBE_RADIUS = 40.0
HALF_ANGLE = math.radians(30)
SAMPLES, LINES = 320, 128  # along depth, across the sector
BEAM_THICKNESS = 6.0  # in scatterer spacings
TILE = 96  # voxels of a noise volume along a side; it repeats
DYNAMIC_RANGE = 55.0  # dB


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


def tissue(anatomy: Anatomy, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Echogenicity (relative) and attenuation (dB per mm) at `points` `[S, L, 3]`."""
    rough = _sample(anatomy.texture, points, pitch=1.3)[0]
    fine = _sample(anatomy.texture, points + 31.0, pitch=0.7)[0]
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

    from_lesion = (points - torch.from_numpy(anatomy.lesion).float()).norm(dim=-1)
    if anatomy.label == "benign":
        in_lesion = from_lesion < anatomy.lesion_radius
        echo = torch.where(in_lesion, 0.55 * torch.exp(0.1 * rough), echo)
    elif anatomy.label == "malignant":
        in_lesion = from_lesion < anatomy.lesion_radius * (1 + 0.45 * rough.clamp(-1.5, 1.5))
        echo = torch.where(in_lesion, 0.3 * torch.exp(0.8 * fine), echo)
        attenuation = torch.where(in_lesion, 0.7, attenuation)

    to_rib = torch.hypot((points[..., 0] - anatomy.rib) / 5, (points[..., 1] - 12) / 2.5)
    echo = torch.where((to_rib < 1) & (points[..., 1] < 12), 3.0, echo)
    attenuation = torch.where(to_rib < 1, 8.0, attenuation)
    return echo, attenuation


def scan_points(tilt: float, turn: float, shift: np.ndarray) -> torch.Tensor:
    """Where the scan lines run in the body, `[SAMPLES, LINES, 3]` in mm.

    tilt: of the scan plane along the sweep, turn: about the probe's axis, radians; shift: of the probe, mm.
    """
    depth = torch.linspace(0, DEPTH, SAMPLES)[:, None]
    angle = torch.linspace(-HALF_ANGLE, HALF_ANGLE, LINES)[None, :]
    x = (PROBE_RADIUS + depth) * torch.sin(angle)
    y = (PROBE_RADIUS + depth) * torch.cos(angle) - PROBE_RADIUS
    body = torch.stack([x * math.cos(turn), y * math.cos(tilt), x * math.sin(turn) + y * math.sin(tilt)], dim=-1)
    return body + torch.from_numpy(shift).float()


def echo_lines(anatomy: Anatomy, points: torch.Tensor, gain: float) -> torch.Tensor:
    """Brightness in 0 .. 1 along the scan lines, `[SAMPLES, LINES]`."""
    echo, attenuation = tissue(anatomy, points)
    step = DEPTH / (SAMPLES - 1)
    lost = torch.cumsum(attenuation, dim=0) * step
    compensated = anatomy.attenuation * 0.92 * step * torch.arange(SAMPLES)[:, None]
    # The beam is a few mm thick across the scan plane: speckle changes slowly along the sweep.
    thick = points * torch.tensor([1, 1, 1 / BEAM_THICKNESS])
    field = _sample(anatomy.scatterers, thick, pitch=0.55) * torch.sqrt(echo)
    envelope = _point_spread(field).square().sum(0).sqrt()
    decibel = 20 * torch.log10(envelope + 1e-4) - lost + compensated + anatomy.gain + gain
    return ((decibel + 0.72 * DYNAMIC_RANGE) / DYNAMIC_RANGE).clamp(0, 1)


def _point_spread(field: torch.Tensor) -> torch.Tensor:
    """Filters `[2, SAMPLES, LINES]`: a short pulse along depth, a beam that is widest away from the focus."""
    pulse = _gaussian(0.9)
    field = F.conv2d(field[:, None], pulse[None, None, :, None], padding=(len(pulse) // 2, 0))
    widths = (0.7, 1.3, 2.4)  # lines
    beams = []
    for width in widths:
        beam = _gaussian(width)
        beams.append(F.conv2d(field, beam[None, None, None, :], padding=(0, len(beam) // 2))[:, 0])
    focus = 0.5
    defocus = (torch.linspace(0, 1, SAMPLES) - focus).abs()[:, None] / focus * (len(widths) - 1)
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


def sector_grid(height: int, width: int) -> torch.Tensor:
    """For scan conversion: where each pixel lies among the scan lines, `[1, height, width, 2]`; outside: beyond 1."""
    top = PROBE_RADIUS * math.cos(HALF_ANGLE)
    pitch = (PROBE_RADIUS + DEPTH - top) / (height - 12)
    y = (torch.arange(height) - 6)[:, None] * pitch + top
    x = (torch.arange(width) - (width - 1) / 2)[None, :] * pitch
    depth = torch.hypot(x, y) - PROBE_RADIUS
    angle = torch.atan2(x.expand(height, -1), y.expand(-1, width))
    return torch.stack([angle / HALF_ANGLE, depth / DEPTH * 2 - 1], dim=-1)[None]


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


def make_video(seed: int, number: int, frames: int, height: int, width: int) -> tuple[np.ndarray, float, str, str]:
    """Scans one video: frames uint8 `[frames, height, width]`, frames per second, label, group."""
    torch.set_num_threads(1)
    patient = number // VIDEOS_PER_PATIENT
    anatomy = draw_anatomy(seed, patient, LABELS[patient % len(LABELS)])
    rng = np.random.default_rng([seed, patient, number])
    rate = float(rng.choice([15, 20, 25, 30]))
    gain = rng.uniform(-3, 3)
    reach, tilt = rng.uniform(22, 30), rng.uniform(0.1, 0.25)
    direction = rng.choice([-1, 1])
    phases = rng.uniform(0, 2 * math.pi, 6)
    grid = sector_grid(height, width)
    inside = (grid.abs() <= 1).all(dim=-1)[0]
    text = overlay(height, width, [f"PHANTOM {patient:02d}", f"{rate:.0f} Hz", f"MI {rng.uniform(0.7, 1.4):.1f}"])
    pictures = np.empty((frames, height, width), np.uint8)
    for index in range(frames):
        at = 2 * index / max(1, frames - 1) - 1  # -1 .. 1 along the sweep
        seconds = index / rate
        tremble = [math.sin(2 * math.pi * f * seconds + p) for f, p in zip((0.9, 1.7, 2.6), phases, strict=False)]
        breath = 2.5 * math.sin(2 * math.pi * 0.25 * seconds + phases[3])
        shift = np.array([1.2 * tremble[0], breath, direction * at * reach + 0.5 * tremble[1]])
        points = scan_points(direction * at * tilt + 0.008 * tremble[2], 0.02 * tremble[0], shift)
        lines = echo_lines(anatomy, points, gain)
        sector = F.grid_sample(lines[None, None], grid, align_corners=True, padding_mode="zeros")[0, 0] * inside
        pictures[index] = np.maximum((sector * 255).round().to(torch.uint8).numpy(), text)
    return pictures, rate, anatomy.label, f"patient-{patient:02d}"


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


def _make(job: tuple[Path, int, int, int, int, int]) -> tuple[str, str, str, float, float]:
    out, seed, number, frames, height, width = job
    pictures, rate, label, group = make_video(seed, number, frames, height, width)
    name = f"phantom-{number:03d}.mp4"
    write_mp4(out / name, pictures, rate)
    near, far = frame_correlation(pictures, 1), frame_correlation(pictures, max(1, frames // 3))
    return name, label, group, near, far


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--videos", default=24, show_default=True, type=click.IntRange(1))
@click.option("--frames", default=96, show_default=True, type=click.IntRange(2), help="Frames a video.")
@click.option("--width", default=320, show_default=True, type=click.IntRange(64))
@click.option("--height", default=240, show_default=True, type=click.IntRange(48))
@click.option("--seed", default=0, show_default=True)
def main(out: Path, videos: int, frames: int, width: int, height: int, seed: int) -> None:
    """Makes ultrasound-like videos and their labels.csv in the folder OUT."""
    out.mkdir(parents=True, exist_ok=True)
    jobs = [(out, seed, number, frames, height, width) for number in range(videos)]
    with multiprocessing.get_context("spawn").Pool(min(videos, cores())) as pool:
        made = list(pool.imap(_make, jobs))
    with (out / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["video", "label", "group"])
        writer.writerows(row[:3] for row in made)
    near, far = (np.mean([row[column] for row in made]) for column in (3, 4))
    click.echo(
        f"{out}: {videos} videos of {frames} frames; mean correlation of frames 1 apart {near:.2f},"
        f" {max(1, frames // 3)} apart {far:.2f}"
    )


if __name__ == "__main__":
    main()
