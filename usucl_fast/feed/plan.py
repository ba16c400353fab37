"""The batch plan: which frames, and how they are cropped and augmented. All random numbers are drawn here.

A plan is a pure function of (seed, epoch, step): the draws of tuple i of an epoch are read at position i of
a Philox stream keyed by (seed, epoch), so any tuple can be planned alone, in any process.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.recfunctions import repack_fields
from numpy.typing import NDArray

from usucl_fast.curriculum import Curriculum, Stage
from usucl_fast.feed.augmentation import (
    BOX_DRAWS,
    LOOK_DRAWS,
    PHOTOMETRY,
    PHOTOMETRY_DRAWS,
    TEXTURED,
    UNCHANGED,
    Augmentation,
    draw_boxes,
    draw_photometry,
)
from usucl_fast.feed.order import by_shards, shuffled
from usucl_fast.feed.tuples import EARLY, EVERYWHERE, REACH, draw_thirds, draw_tuple
from usucl_fast.shards import FrameTable

TUPLE_STREAM, AUGMENTATION_STREAM, MIX_STREAM, LOOK_STREAM = 1, 2, 3, 4  # `feed.order` has 0
PICTURE_DRAWS = BOX_DRAWS + PHOTOMETRY_DRAWS
TUPLES = ("mined", "full", "pair", "thirds")
"""The kinds of tuples, see `Planner`."""
NO_STAGE = Stage(intra=False, window=(0.0, 0.0), intra_negatives=0, intra_hard_share=0.0, cross_topk=0, cross_band=None)
"""The stage of a plan that belongs to no run."""


@dataclass(frozen=True, eq=False)
class BatchPlan:
    """What a loader has to deliver for one step: frame ids, crops, flips and grey levels.

    View 0 is the anchor, view 1 the positive, the others are intra-video negatives, or small crops of the anchor's
    frame (of `thirds`, see `Planner`, they are the three frames).

    frame_ids: int64 `[B, V]`.
    valid: bool `[B, V]`; False where a video is too short for such a view. The frame id is then the
        anchor's, so that there is always something to load.
    boxes: int64 `[B, V, 4]`, the crop's top, left, height, width in pixels of the stored frame; it may reach beyond it.
    flips: bool `[B, V]`, mirrored left to right after cropping.
    photometry: `PHOTOMETRY` `[B, V]`, what is done to the grey levels.
    mix: float64 `[B, 2]`, uniform in [0, 1), for a method that mixes views; loaders ignore it.
    video, group: int64 `[B]`, the video of each tuple and that video's group, see `FrameTable`.
    lane: int64 `[B]`, by which tuples are dealt to ranks, see `dealt`; 0 for all where it does not matter.
    step: of the run.
    epoch, stage: the step's, and what the curriculum asks for in it.
    """

    frame_ids: NDArray[np.int64]
    valid: NDArray[np.bool_]
    boxes: NDArray[np.int64]
    flips: NDArray[np.bool_]
    photometry: NDArray[np.void]
    mix: NDArray[np.float64]
    video: NDArray[np.int64]
    group: NDArray[np.int64]
    lane: NDArray[np.int64]
    step: int = 0
    epoch: int = 0
    stage: Stage = NO_STAGE

    def parts(self, accumulate: int = 1, rank: int = 0, world: int = 1) -> "list[Part]":
        """Cuts a batch into the parts that are encoded one after the other, each with this rank's share of it.

        Sizes differ by one at most. All wholes joined are the plan; all ranks' own shares joined are a whole, in the
        order of `dealt`.
        """
        return [Part(self._take(whole), self._take(own)) for whole, own in _cut(self.lane, accumulate, rank, world)]

    def dealt(self) -> NDArray[np.int64]:
        """The numbers of the tuples in the order in which ranks get them: by lane, so that each reads few shards.

        int64 `[B]`.
        """
        return _dealt(self.lane)

    def _take(self, tuples: NDArray[np.int64]) -> "BatchPlan":
        taken: dict[str, Any] = {name: getattr(self, name)[tuples] for name in _BY_TUPLE}
        return dataclasses.replace(self, **taken)

    @staticmethod
    def joined(plans: Sequence["BatchPlan"]) -> "BatchPlan":
        """Joins the tuples of several plans of a step."""
        if len(plans) == 1:
            return plans[0]
        arrays: dict[str, Any] = {name: np.concatenate([getattr(plan, name) for plan in plans]) for name in _BY_TUPLE}
        return dataclasses.replace(plans[0], **arrays)

    def digest(self) -> str:
        """A hash, 16 hexadecimal digits, of everything that a loader sees."""
        parts = (self.frame_ids, self.valid, self.boxes, self.flips)
        data = [*(part.astype("<i8").tobytes() for part in parts), self._photometry_bytes()]
        return hashlib.sha256(b"".join(data)).hexdigest()[:16]

    def _photometry_bytes(self) -> bytes:
        """Without the fields of the texture where there is none: plans from before there were any keep their digest."""
        if any(self.photometry[name].any() for name in TEXTURED):
            return self.photometry.tobytes()
        plain = [name for name in PHOTOMETRY.names or () if name not in TEXTURED]
        return repack_fields(self.photometry[plain]).tobytes()


_BY_TUPLE = tuple(field.name for field in dataclasses.fields(BatchPlan) if field.default is dataclasses.MISSING)
"""The fields that have an entry a tuple."""


class Part(NamedTuple):
    """A part of a batch: the tuples of all ranks, and this rank's own share of them."""

    whole: BatchPlan
    own: BatchPlan


def _cut(
    lane: NDArray[np.int64], accumulate: int, rank: int, world: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """The numbers of the tuples in each part of a batch, see `BatchPlan.parts`: of the whole, and of a rank's own."""
    for number in range(accumulate):
        whole = _share(np.arange(len(lane)), number, accumulate)
        yield whole, whole[_share(_dealt(lane[whole]), rank, world)]


def _dealt(lane: NDArray[np.int64]) -> NDArray[np.int64]:
    return lane.argsort(kind="stable")


def _share(tuples: NDArray[np.int64], number: int, count: int) -> NDArray[np.int64]:
    return tuples[number * len(tuples) // count : (number + 1) * len(tuples) // count]


@dataclass(frozen=True, eq=False)
class Planner:
    """Plans the batches of a run over `table`: an epoch is some tuples of every video, in shuffled order.

    epochs: of the run.
    length: steps of the run, in place of `epochs`; the curriculum then moves with every step. 0 for none.
    videos: int64, numbers of the videos that are planned; None for all.
    tuples_per_video: tuples of every video in an epoch.
    tuples: what a tuple is made of, in `TUPLES`:
        `mined`: anchor, positive, and the curriculum's intra-video negatives while they count in the loss.
        `full`: those always.
        `pair`: anchor and positive alone, and `small_crops`. Anchors are drawn from `EVERYWHERE`.
        `thirds`: three frames, one of each third of the video, that of the middle first.
    reach: frames from an anchor to its positive, at most; 0 for the anchor's own frame, with other augmentations.
    small_crops: further views of the anchor's frame, of a pair: crops from anywhere in it.
    small_area: their share of the largest centred square.
    shuffle_shards: shards that are read side by side, see `by_shards`; 0 for all of them.
    """

    table: FrameTable
    seed: int
    epochs: int
    batch_size: int
    curriculum: Curriculum
    augmentation: Augmentation
    tuples: str = "mined"
    reach: int = REACH
    videos: NDArray[np.int64] | None = None
    tuples_per_video: int = 1
    length: int = 0
    small_crops: int = 0
    small_area: tuple[float, float] = (0.05, 0.4)
    shuffle_shards: int = 0

    @functools.cached_property
    def planned(self) -> NDArray[np.int64]:
        """Numbers of the videos that are planned."""
        return np.arange(len(self.table.videos)) if self.videos is None else self.videos

    @functools.cached_property
    def _shard(self) -> NDArray[np.int64]:
        """The shard of each video."""
        return self.table.rows["shard"][self.table.first_row[:-1]].astype(np.int64)

    @functools.cached_property
    def _lane(self) -> NDArray[np.int64]:
        """The lane of each video, see `by_shards`; 0 for all where all shards are shuffled."""
        return self._shard % self.shuffle_shards if self.shuffle_shards else np.zeros(len(self.table.videos), np.int64)

    @functools.cached_property
    def _order(self) -> Callable[[int], NDArray[np.int64]]:
        """A function that returns the videos of an epoch's tuples, int64 `[tuples_per_epoch]`; thread-safe."""
        return functools.lru_cache(maxsize=2)(self._draw_order)

    def _draw_order(self, epoch: int) -> NDArray[np.int64]:
        if self.shuffle_shards:
            shard = np.tile(self._shard[self.planned], self.tuples_per_video)
            order = by_shards(shard, self.shuffle_shards, self.seed, epoch)
        else:
            order = shuffled(self.seed, epoch, self.tuples_per_epoch)
        return self.planned[order % len(self.planned)]

    @property
    def tuples_per_epoch(self) -> int:
        """`tuples_per_video` times the number of videos that are planned."""
        return len(self.planned) * self.tuples_per_video

    @property
    def steps_per_epoch(self) -> int:
        """Batches an epoch. Their sizes differ by at most one: a small last batch would upset batch norm."""
        return -(-self.tuples_per_epoch // self.batch_size)

    @property
    def steps(self) -> int:
        """Batches of the run."""
        return self.length or self.epochs * self.steps_per_epoch

    @property
    def most_views(self) -> int:
        """Views of the largest tuple."""
        return {"pair": 2 + self.small_crops, "thirds": 3}.get(self.tuples, 2 + max(self.curriculum.intra_negatives))

    @property
    def most_frames(self) -> int:
        """Frames of the largest batch."""
        return -(-self.tuples_per_epoch // self.steps_per_epoch) * self.most_views

    def stage(self, step: int) -> Stage:
        """What the curriculum asks for at a step of the run."""
        return self.curriculum(step / self.length if self.length else step // self.steps_per_epoch / self.epochs)

    def plans(self, start: int = 0) -> Iterator[BatchPlan]:
        """All plans of the run from step `start` on, counted over the whole run."""
        for step in range(start, self.steps):
            yield self.plan(*divmod(step, self.steps_per_epoch))

    def plan(self, epoch: int, step: int) -> BatchPlan:
        """The plan of one step of one epoch, counted from 0."""
        return self.plan_tuples(epoch, *self._tuples_of(step))

    def _tuples_of(self, step: int) -> tuple[int, int]:
        """The first tuple of a step of an epoch, and that after its last."""
        tuples, steps = self.tuples_per_epoch, self.steps_per_epoch
        return step * tuples // steps, (step + 1) * tuples // steps

    def plan_tuples(self, epoch: int, first: int, end: int) -> BatchPlan:
        """The plan of the tuples `first` to `end - 1` of one epoch; every tuple is what it is in any batch."""
        steps = self.steps_per_epoch
        run_step = epoch * steps + ((first + 1) * steps - 1) // self.tuples_per_epoch  # that the first tuple is of
        video = self._order(epoch)[first:end]
        return self._plan(run_step, epoch, range(first, first + len(video)), video)

    def shards(self, start: int, accumulate: int, rank: int, world: int) -> Iterator[NDArray[np.int64]]:
        """The shards that a rank reads in each step of the run from `start` on, each named once, see `parts`."""
        for step in range(start, self.steps):
            epoch, step_of_epoch = divmod(step, self.steps_per_epoch)
            video = self._order(epoch)[slice(*self._tuples_of(step_of_epoch))]
            own = [own for _, own in _cut(self._lane[video], accumulate, rank, world)]
            yield np.unique(self._shard[video[np.concatenate(own)]])

    def plan_around(self, anchors: NDArray[np.int64], step: int) -> BatchPlan:
        """What a step of the run, counted from 0, would draw around anchors that it has not drawn itself.

        anchors: int64 `[A]`, frame ids.
        """
        video = self.table.rows["video"][anchors].astype(np.int64)
        first = self.tuples_per_epoch  # numbers that no tuple of an epoch has
        own = anchors - self.table.first_row[video]
        return self._plan(step, step // self.steps_per_epoch, range(first, first + len(video)), video, own)

    def _plan(
        self,
        run_step: int,
        epoch: int,
        tuples: range,
        video: NDArray[np.int64],
        anchor: NDArray[np.int64] | None = None,
    ) -> BatchPlan:
        """The plan of tuples, by their numbers in an epoch, of these videos `[B]`; of given anchors, numbers of frames
        in the videos, in place of drawn ones."""
        stage = self.stage(run_step)
        length = np.diff(self.table.first_row)[video]
        # Draws do not depend on how many views are planned: a video's anchor stays its anchor.
        draws = _uniform(self.seed, epoch, TUPLE_STREAM, tuples, self.most_views)
        if self.tuples == "thirds":
            frames, valid = draw_thirds(length, draws)
            if anchor is not None:
                frames[:, 0] = anchor
        elif self.tuples == "pair":
            frames, valid = draw_tuple(length, stage.window, draws[:, :2], EVERYWHERE, self.reach, anchor)
            views = [0, 1, *[0] * self.small_crops]
            frames, valid = frames[:, views], valid[:, views]
        else:
            planned = stage.intra_negatives if stage.intra or self.tuples == "full" else 0
            frames, valid = draw_tuple(length, stage.window, draws[:, : 2 + planned], EARLY, self.reach, anchor)
        count = frames.shape[1]
        draws = self._picture_draws(epoch, AUGMENTATION_STREAM, tuples, PICTURE_DRAWS)[:, :count]
        boxes, flips = self._boxes(self.table.size[video][:, None], draws[..., :BOX_DRAWS])
        levels = draws[..., BOX_DRAWS:]
        if self.augmentation.changes_look:
            look = self._picture_draws(epoch, LOOK_STREAM, tuples, LOOK_DRAWS)[:, :count]
            levels = np.concatenate([levels, look], axis=-1)
        photometry = draw_photometry(self.augmentation, levels)
        mix = _uniform(self.seed, epoch, MIX_STREAM, tuples, 2)
        return BatchPlan(
            frame_ids=frames + self.table.first_row[video][:, None],
            valid=valid,
            boxes=boxes,
            flips=flips,
            photometry=photometry,
            mix=mix,
            video=video,
            group=self.table.group[video],
            lane=self._lane[video],
            step=run_step,
            epoch=epoch,
            stage=stage,
        )

    def _boxes(
        self, size: NDArray[np.int64], draws: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """`draw_boxes` of all views, with small ones for small crops."""
        boxes, flips = draw_boxes(size, self.augmentation, draws)
        if self.tuples == "pair" and self.small_crops:
            small = dataclasses.replace(self.augmentation, area=self.small_area, whole=False)
            boxes[:, 2:], flips[:, 2:] = draw_boxes(size, small, draws[:, 2:])
        return boxes, flips

    def _picture_draws(self, epoch: int, stream: int, tuples: range, count: int) -> NDArray[np.float64]:
        """`[tuples, most_views, count]` uniform draws of the pictures of some tuples of an epoch."""
        return _uniform(self.seed, epoch, stream, tuples, self.most_views * count).reshape(len(tuples), -1, count)


def whole_frames(table: FrameTable, frame_ids: NDArray[np.int64], batch_size: int) -> Iterator[BatchPlan]:
    """Plans frames without augmentation, for evaluation: one view each, its largest centred square."""
    for start in range(0, len(frame_ids), batch_size):
        ids = frame_ids[start : start + batch_size, None]
        size = table.size_of(ids)
        side = size.min(axis=-1, keepdims=True)
        boxes = np.concatenate([(size - side) // 2, side, side], axis=-1)
        video = table.rows["video"][ids[:, 0]].astype(np.int64)
        yield BatchPlan(
            frame_ids=ids,
            valid=np.ones(ids.shape, np.bool_),
            boxes=boxes,
            flips=np.zeros(ids.shape, np.bool_),
            photometry=np.full(ids.shape, UNCHANGED),
            mix=np.zeros((len(ids), 2)),
            video=video,
            group=table.group[video],
            lane=np.zeros(len(ids), np.int64),
        )


def _uniform(seed: int, epoch: int, stream: int, tuples: range, count: int) -> NDArray[np.float64]:
    """`[tuples, count]` uniform draws of some tuples of an epoch."""
    blocks = -(-count // 4)  # Philox yields four numbers a counter value
    philox = np.random.Philox(key=[seed, epoch], counter=[tuples.start * blocks, stream, 0, 0])
    return np.random.Generator(philox).random((len(tuples), blocks * 4))[:, :count]
