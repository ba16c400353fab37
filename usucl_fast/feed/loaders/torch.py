"""The `torch` loader: libjpeg-turbo in threads. Needs nothing but CPU cores."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from usucl_fast.feed.loaders.threaded import LEAST_CHUNK, Ints, ThreadedLoader, addresses_of
from usucl_fast.feed.plan import BatchPlan


class TorchLoader(ThreadedLoader):
    """Decodes frames one at a time and renders a few together, in threads."""

    def _fill(self, out_NHWC: NDArray[np.uint8], plan: BatchPlan, prepared: Any, chunk: Ints) -> None:
        for start in range(0, len(chunk), LEAST_CHUNK):  # so few stay in the cache until they are rendered
            few = chunk[start : start + LEAST_CHUNK]
            frames = list(self._decoded(plan.frame_ids.ravel()[few]))
            shapes = np.array([frame.shape[:2] for frame in frames])
            self._render(addresses_of(frames), shapes, plan.boxes.reshape(-1, 4)[few], plan, few, out_NHWC)
