"""Queries/s and recall of the memory bank, of FAISS and of the published search."""

import importlib
import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from usucl_fast.bench.harness import Arm
from usucl_fast.errors import UsageError
from usucl_fast.machine import computes_in_bf16
from usucl_fast.mining import MemoryBank
from usucl_fast.optional import needed

COARSE = torch.bfloat16 if computes_in_bf16(torch.device("cpu")) else torch.float32
"""The arithmetic of the floor: the faster one here."""
BATCHES = 4
"""Batches of queries that a run goes through, again and again for at least `SECONDS`."""
SECONDS = 0.3
JUDGED = 64
"""Queries of the first batch that the recall is of, at most."""
SCENES = 64

# What takes queries [B, D] and, for each, the video to leave out, and returns the rows [B, k].
Search = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def read_embeddings(path: Path, video_length: int) -> tuple[torch.Tensor, NDArray[np.int64]]:
    """Embeddings `[N, D]` and `first_row` `[videos + 1]`: of an .npz the arrays of these names; of an .npy the rows,
    in videos of `video_length`.

    Raises:
        UsageError: the file does not hold them.
    """
    try:
        loaded = np.load(path)
        if isinstance(loaded, np.ndarray):
            return torch.from_numpy(loaded), even_videos(len(loaded), video_length)
        return torch.from_numpy(loaded["embeddings"]), loaded["first_row"].astype(np.int64)
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise UsageError(f"--embeddings {path} holds no embeddings and first_row: {error}") from error


def even_videos(rows: int, length: int) -> NDArray[np.int64]:
    """`first_row` of videos of `length` rows; the last one has what remains."""
    return np.append(np.arange(0, rows, length), rows)


def make_embeddings(kind: str, rows: int, dim: int, length: int) -> torch.Tensor:
    """Makes embeddings, bfloat16 `[rows, dim]` of unit length, always the same ones.

    random: independent directions; the hardest case, in which nothing can be skipped.
    clustered: videos of `length` rows lie about one of 64 scenes, at a cosine of about 0.8, and their frames wander
        about the video's direction, at a cosine of about 0.9, smoothly but for a little noise: 0.99 from one frame
        to the next.
    """
    generator = torch.Generator().manual_seed(0)
    out = torch.empty(rows, dim, dtype=torch.bfloat16)
    normal = partial(torch.randn, generator=generator)
    scenes = F.normalize(normal(SCENES, dim), dim=1)
    per_block = max(1, (1 << 23) // (dim * length))
    for start in range(0, rows, per_block * length):
        block = out[start : start + per_block * length]
        if kind == "random":
            block.copy_(F.normalize(normal(len(block), dim), dim=1))
            continue
        videos = -(-len(block) // length)
        scene = torch.randint(SCENES, (videos,), generator=generator)
        video = F.normalize(scenes[scene] + 0.75 * F.normalize(normal(videos, dim), dim=1), dim=1)
        # The path of a video: a few waves, the slower the wider.
        waves = torch.arange(1, 5)
        phase = 2 * torch.pi * torch.rand(videos, 1, 4, generator=generator)
        path = torch.cos(torch.pi * torch.arange(length)[:, None] / length * waves + phase) / waves
        wander = path @ F.normalize(normal(videos, 4, dim), dim=2)
        frames = video[:, None] + 0.5 * wander + 0.1 * dim**-0.5 * normal(videos, length, dim)
        block.copy_(F.normalize(frames, dim=2).flatten(0, 1)[: len(block)])
    return out


def mining_arms(
    names: list[str], embeddings: torch.Tensor, first_row: NDArray[np.int64], *, batch_size: int, k: int
) -> list[Arm]:
    """Makes the named arms ready to run: they search for the `k` rows most similar to each query of a batch.

    All search the same rows, rounded to bfloat16, on the CPU. A query is a row and a little noise, and its video is
    left out; arms that leave out none are described so. FAISS takes one selector a call: its queries go one by one, on
    all threads.

    Raises:
        UsageError: an arm needs FAISS, and it is not installed or does not load.
    """
    for name in names:
        if name.startswith("faiss"):
            with needed("FAISS", f"the arm {name}", "bench"):
                importlib.import_module("faiss")
    bank = MemoryBank(first_row, embeddings.shape[1], torch.bfloat16)
    bank.load_state_dict({"embeddings": embeddings, "written_at": torch.zeros(len(embeddings), dtype=torch.int64)})
    batches = _queries(bank, batch_size)
    query, video = batches[0]
    truth = _right_answers(bank, query[:JUDGED], video[:JUDGED], k)
    arms = []
    for name in names:
        search = _searches(name, bank, k)
        if name == "floor-matmul":
            delivers = f"nothing: products of the rows with the queries in {COARSE}".replace("torch.", "")
        else:
            open_too = ", own video among them" if name in ("faiss-flat-open", "published") else ""
            recall = _recall(bank, batches[0], search, truth)
            delivers = f"{k} most similar rows{open_too}, recall {recall:.3f}"
        arms.append(Arm(name, delivers, partial(_rate, search, batches)))
    return arms


def _queries(bank: MemoryBank, batch_size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    batches = []
    for _ in range(BATCHES):
        rows = torch.randint(len(bank), (batch_size,), generator=generator)
        noise = torch.randn(batch_size, bank.embeddings.shape[1], generator=generator)
        query = F.normalize(bank.rows(rows) + 0.2 * F.normalize(noise, dim=1), dim=1)
        batches.append((query, torch.from_numpy(np.searchsorted(bank.first_row, rows, side="right") - 1)))
    return batches


def _right_answers(bank: MemoryBank, query: torch.Tensor, video: torch.Tensor, k: int) -> torch.Tensor:
    """The k greatest similarities of each query by brute force, float64 `[B, k]`."""
    best = torch.full((len(query), k), -torch.inf, dtype=torch.float64)
    first, last = (torch.from_numpy(bank.first_row)[video + side, None] for side in (0, 1))
    for start in range(0, len(bank), 1 << 16):
        scores = query.double() @ bank.embeddings[start : start + (1 << 16)].double().T
        row = start + torch.arange(scores.shape[1])
        scores.masked_fill_((row >= first) & (row < last), -torch.inf)
        best = torch.cat([best, scores], dim=1).topk(k, dim=1).values
    return best


def _recall(bank: MemoryBank, batch: tuple[torch.Tensor, torch.Tensor], search: Search, truth: torch.Tensor) -> float:
    """The recall: the share of the right answers that are found; among rows as similar as the k-th, any is right."""
    query, video = batch
    found = search(query, video)[: len(truth)]
    similarity = torch.einsum("bd,bkd->bk", query[: len(truth)].double(), bank.rows(found).double())
    own = torch.from_numpy(np.searchsorted(bank.first_row, found, side="right") - 1) == video[: len(truth), None]
    right = (similarity >= truth[:, -1:] - 1e-12) & (found >= 0) & ~own
    possible = truth.isfinite()
    return float((right & possible).sum() / possible.sum())


def _searches(name: str, bank: MemoryBank, k: int) -> Search:
    if name in ("exact", "approximate"):
        return lambda query, video: bank.cross(query, video, k, approximate=name == "approximate").frame_ids
    if name == "floor-matmul":
        return partial(_multiply, bank.embeddings.to(COARSE))
    rows = bank.embeddings.float()
    if name == "published":
        return lambda query, video: torch.stack([(rows @ one).topk(k).indices for one in query])
    index, parameters = _faiss_index(name, rows.numpy())
    if name == "faiss-flat-open":
        return lambda query, video: torch.from_numpy(index.search(query.numpy(), k)[1])

    faiss = importlib.import_module("faiss")

    def search_one(query: NDArray[np.float32], video: int) -> NDArray[np.int64]:
        own = faiss.IDSelectorRange(*bank.first_row[video : video + 2].tolist())
        found: NDArray[np.int64] = index.search(query[None], k, params=parameters(sel=faiss.IDSelectorNot(own)))[1]
        return found

    def search(query: torch.Tensor, video: torch.Tensor) -> torch.Tensor:
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            return torch.from_numpy(np.concatenate(list(pool.map(search_one, query.numpy(), video.tolist()))))

    return search


def _faiss_index(name: str, rows: NDArray[np.float32]) -> tuple[Any, Callable[..., Any]]:
    """Builds an index of the rows; also returns what makes the parameters of a search."""
    faiss = importlib.import_module("faiss")
    faiss.omp_set_num_threads(torch.get_num_threads())
    dim, inner = rows.shape[1], faiss.METRIC_INNER_PRODUCT
    if name == "faiss-ivf":
        lists = max(1, round(len(rows) ** 0.5))
        index = faiss.index_factory(dim, f"IVF{lists},Flat", inner)
        index.cp.max_points_per_centroid = 64
        index.train(rows)
        parameters = partial(faiss.SearchParametersIVF, nprobe=max(1, lists // 16))
    elif name == "faiss-hnsw":
        index = faiss.IndexHNSWFlat(dim, 32, inner)
        parameters = partial(faiss.SearchParametersHNSW, efSearch=128)
    else:
        index, parameters = faiss.IndexFlatIP(dim), faiss.SearchParameters
    index.add(rows)
    return index, parameters


def _multiply(rows: torch.Tensor, query: torch.Tensor, video: torch.Tensor) -> torch.Tensor:
    columns = query.to(COARSE).T
    for block in rows.split(1 << 14):
        torch.mm(block, columns)
    return video


def _rate(search: Search, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Queries/s."""
    search(*batches[-1])
    done, started = 0, time.perf_counter()
    for query, video in itertools.cycle(batches):
        search(query, video)
        done += len(query)
        elapsed = time.perf_counter() - started
        if elapsed >= SECONDS:
            return done / elapsed
    raise AssertionError("cycle does not end")
