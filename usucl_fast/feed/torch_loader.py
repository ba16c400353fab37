"""The `torch` loader: libjpeg-turbo in threads. Needs nothing but CPU cores."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from usucl_fast.feed.loader import decode_frame
from usucl_fast.feed.plan import BatchPlan
from usucl_fast.feed.threaded import ThreadedLoader


class TorchLoader(ThreadedLoader):
    """Decodes, crops and resizes, a frame at a time."""

    def _fill(self, out_NHWC: torch.Tensor, plan: BatchPlan, chunk: NDArray[np.int64]) -> None:
        size = self._delivery.size
        frame_ids, flips, boxes = (plan.frame_ids.ravel()[chunk], plan.flips.ravel(), plan.boxes.reshape(-1, 4))
        for index, frame_id, data in zip(chunk.tolist(), frame_ids.tolist(), self._store.read(frame_ids), strict=True):
            pixels = decode_frame(self._store, frame_id, data, self._delivery.channels)
            top, left, height, width = boxes[index].tolist()
            crop_HWC = torch.from_numpy(pixels)[top : top + height, left : left + width]
            if (height, width) != (size, size):
                crop_CHW = crop_HWC.permute(2, 0, 1).contiguous()
                resized = F.interpolate(crop_CHW[None], size=(size, size), mode="bilinear", antialias=True)
                crop_HWC = resized[0].permute(1, 2, 0)
            out_NHWC[index] = crop_HWC.flip(1) if flips[index] else crop_HWC
