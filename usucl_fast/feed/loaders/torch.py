"""The `torch` loader: libjpeg-turbo in threads. Needs nothing but CPU cores."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from usucl_fast.feed.loaders.threaded import Ints, ThreadedLoader, addresses_of
from usucl_fast.feed.plan import BatchPlan


class TorchLoader(ThreadedLoader):
    """Decodes and renders frames one at a time, in threads."""

    def _fill(self, out_NHWC: NDArray[np.uint8], plan: BatchPlan, prepared: Any, chunk: Ints) -> None:
        frame_ids, boxes = plan.frame_ids.ravel()[chunk], plan.boxes.reshape(-1, 4)[chunk]
        for place, pixels in enumerate(self._decoded(frame_ids)):
            one = slice(place, place + 1)
            shapes = np.array([pixels.shape[:2]])
            self._render(addresses_of([pixels]), shapes, boxes[one], plan, chunk[one], out_NHWC)
