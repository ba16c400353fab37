"""The search on a GPU, in Triton: one pass over the rows, which writes the greatest similarity of every few rows alone.

Every answer lies in one of as many blocks as answers are asked for: those with the greatest similarities in them. These
blocks are then searched as `TorchSearch` searches ranges. So the rows are read once, and of the similarities one in
`SPAN` is written.
"""

import torch
import triton
import triton.language as tl

from usucl_fast.mining.search import Allowed, Rows, TorchSearch, scaled

SPAN = 64
"""Rows in a block, which are read and multiplied at once."""
MOST_DIM = 256
"""Numbers of such a row, at most: more do not fit where a GPU multiplies."""
PARTS = {torch.float16: 2, torch.bfloat16: 3}
"""Numbers of the rows' type that add up to a float32."""
LEAST_SHARE = 4
"""Where the blocks to be searched are a greater part of the rows than one in so many, all rows are searched instead."""


class FusedSearch(TorchSearch):
    """Searches on a GPU, as exact as `TorchSearch`, which does so where rows are float32 or very many answers are asked
    for."""

    def nearest(
        self, query: torch.Tensor, allowed: Allowed, k: torch.Tensor, most: int, approximate: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        count, dim = self._rows.embeddings.shape
        if most * SPAN * LEAST_SHARE > count or dim > MOST_DIM or self._rows.embeddings.dtype not in PARTS:
            return super().nearest(query, allowed, k, most, approximate)
        query, best = scaled(query, allowed, k, most, self._rows)
        greatest = block_maxima(query, self._rows, allowed, best.below)
        block = greatest.topk(min(most, greatest.shape[1]), dim=1, sorted=False).indices
        row = (block[:, :, None] * SPAN + torch.arange(SPAN, device=block.device)).flatten(1)
        for rows in row.split(self._columns(query), dim=1):
            self._look(query, rows.clamp_max(count - 1), rows >= count, best)
        return best.answers()


def block_maxima(query: torch.Tensor, rows: Rows, allowed: Allowed, below: torch.Tensor) -> torch.Tensor:
    """The greatest similarity of each query to the allowed rows in each block of `SPAN`.

    Args:
        query: float32 `[B, D]`, of numbers of about 1 and less.
        below: float32 `[B, 1]`, similarities above which rows are not allowed.

    Returns:
        float32 `[B, blocks]`; -inf where no row is allowed.
    """
    count, dim = rows.embeddings.shape
    blocks, width = -(-count // SPAN), max(16, triton.next_power_of_2(dim))
    greatest = query.new_empty(len(query), blocks)
    parts = _parts(torch.nn.functional.pad(query, (0, width - dim)), rows.embeddings.dtype)
    _block_maxima[(blocks,)](
        rows.embeddings,
        rows.written_at,
        rows.group,
        parts,
        allowed.excluded,
        below,
        greatest,
        allowed.oldest,
        count,
        len(query),
        blocks,
        dim=dim,
        width=width,
        parts=len(parts),
        span=SPAN,
        at_once=32 if len(query) <= 32 else 64,
        num_stages=1,  # the rows stay where they are, and queries come from the cache: there is nothing to fetch ahead
    )
    return greatest


def _parts(query: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """float32 `[B, D]` -> `[parts, B, D]` of the type, which add up to it, so that products with rows of the type are
    those of float32."""
    parts: list[torch.Tensor] = []
    for _ in range(PARTS[dtype]):
        parts.append(query.to(dtype))
        query = query - parts[-1].float()
    return torch.stack(parts)


@triton.jit
def _block_maxima(  # type: ignore[no-untyped-def]
    embeddings,
    written_at,
    group,
    query,
    excluded,
    below,
    greatest,
    oldest,
    count,
    asked,
    blocks,
    dim: tl.constexpr,
    width: tl.constexpr,
    parts: tl.constexpr,
    span: tl.constexpr,
    at_once: tl.constexpr,
):
    place = tl.program_id(0).to(tl.int64)
    row, column = place * span + tl.arange(0, span), tl.arange(0, width)
    there = row < count
    held = tl.load(
        embeddings + row[:, None] * dim + column[None], mask=there[:, None] & (column < dim)[None], other=0.0
    )
    usable = tl.load(written_at + row, mask=there, other=-1) >= oldest
    of_group = tl.load(group + row, mask=there, other=-1)
    for start in range(0, asked, at_once):
        number = start + tl.arange(0, at_once)
        known = number < asked
        similarity = tl.zeros((span, at_once), tl.float32)
        for part in tl.static_range(parts):
            one = tl.load(
                query + (part * asked + number)[:, None] * width + column[None], mask=known[:, None], other=0.0
            )
            similarity = tl.dot(held, tl.trans(one), similarity)
        left_out = tl.load(excluded + number, mask=known, other=-1)
        limit = tl.load(below + number, mask=known, other=0.0)
        allowed = usable[:, None] & (of_group[:, None] != left_out[None]) & (similarity <= limit[None])
        best = tl.max(tl.where(allowed, similarity, float("-inf")), axis=0)
        tl.store(greatest + number.to(tl.int64) * blocks + place, best, mask=known)
