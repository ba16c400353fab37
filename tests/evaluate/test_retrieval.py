import sys
from pathlib import Path

import numpy as np
import pytest

from usucl_fast.errors import UsageError
from usucl_fast.evaluate import retrieval
from usucl_fast.evaluate.retrieval import draw_rows, nearest, pick_queries, write_embeddings


def naive(features: np.ndarray, query: int, groups: np.ndarray, k: int) -> dict[int, float]:
    centred = features - features.mean(axis=0)
    cosine = {}
    for place, other in enumerate(centred):
        if groups[place] != groups[query]:
            cosine[place] = other @ centred[query] / np.linalg.norm(other) / np.linalg.norm(centred[query])
    return {place: cosine[place] for place in sorted(cosine, key=lambda place: -cosine[place])[:k]}


def test_nearest_is_the_naive_loops() -> None:
    rng = np.random.default_rng(0)
    features, groups = rng.standard_normal((60, 8)).astype(np.float32) + 5, rng.integers(0, 4, 60)
    queries = np.array([3, 59, 0, 17, 4])
    places, cosines = nearest(features, queries, groups, 7)
    for query, found, similarity in zip(queries, places, cosines, strict=True):
        expected = naive(features, query, groups, 7)
        assert found.tolist() == list(expected)
        assert similarity == pytest.approx(list(expected.values()), abs=1e-5)


def test_where_there_are_fewer_neighbours_there_is_none() -> None:
    places, cosines = nearest(np.eye(4, dtype=np.float32), np.array([0, 3]), np.array([5, 5, 5, 9]), 6)
    assert places[0].tolist() == [3, -1, -1, -1]
    assert set(places[1].tolist()) == {0, 1, 2, -1}
    assert np.isneginf(cosines).sum() == 4


def test_queries_are_of_all_classes_and_of_different_videos() -> None:
    videos = np.repeat(np.arange(30), 5)
    labels = np.where(videos < 24, 0, np.where(videos < 28, 1, -1))
    picked = pick_queries(labels, videos, 6, 0)
    assert sorted(labels[picked].tolist()) == [0, 0, 0, 1, 1, 1]
    assert len(set(videos[picked].tolist())) == 6
    assert picked.tolist() == pick_queries(labels, videos, 6, 0).tolist() != pick_queries(labels, videos, 6, 1).tolist()
    assert (labels[pick_queries(labels, videos, 29, 0)] == -1).sum() == 1
    assert len(pick_queries(labels, videos, 100, 0)) == 30


def test_borders_tell_whether_labels_agree() -> None:
    asked = []

    def pictures_of(places: np.ndarray) -> np.ndarray:
        asked.append(places.tolist())
        return np.broadcast_to(places.astype(np.uint8)[:, None, None] * 10 + 100, (len(places), 32, 32)).copy()

    neighbours = np.array([[1, 2, -1], [3, 2, 1]])
    labels = ["a", "a", "β" * 40, None]
    page = draw_rows(pictures_of, np.array([0, 3]), neighbours, np.full((2, 3), 0.5, np.float32), labels)
    assert asked == [[0, 1, 2, 3]]
    pixels = np.asarray(page)
    top, across = retrieval.GAP, 32 + 2 * retrieval.BORDER + retrieval.GAP
    left = 2 * retrieval.GAP + across
    assert tuple(pixels[top, left].tolist()) == retrieval.RIGHT
    assert tuple(pixels[top, left + across].tolist()) == retrieval.WRONG
    half = pixels.shape[0] // 2
    seen = [{tuple(pixel) for pixel in part.reshape(-1, 3).tolist()} for part in (pixels[:half], pixels[half:])]
    assert {(100,) * 3, (110,) * 3, (120,) * 3} <= seen[0]
    assert not {retrieval.RIGHT, retrieval.WRONG} & seen[1]  # the query has no label
    assert {(110,) * 3, (120,) * 3, (130,) * 3} <= seen[1]


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_embeddings_come_back(tmp_path: Path, suffix: str) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    features = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    columns = {
        "frame_id": np.arange(5),
        "video": np.array(["x", "x", "y", "y", "z"]),
        "label": np.array(["a", None, "b", "b", None], object),
    }
    path = tmp_path / f"e.{suffix}"
    write_embeddings(path, columns, features)
    if suffix == "npz":
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
        assert found.pop("embeddings").tobytes() == features.tobytes()
        assert found["label"].tolist() == ["a", "", "b", "b", ""]
    else:
        import pyarrow.parquet as pq

        table = pq.read_table(path)
        assert str(table.schema.field("embedding").type).startswith("fixed_size_list")
        found = {name: table[name].to_numpy() for name in columns}
        assert np.array_equal(np.array(table["embedding"].to_pylist(), np.float32), features)
        assert found["label"].tolist() == columns["label"].tolist()
    assert list(found) == list(columns)
    assert found["frame_id"].tolist() == [0, 1, 2, 3, 4]
    assert found["video"].tolist() == columns["video"].tolist()


def test_embeddings_that_cannot_be_written_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"e\.csv.*\.npz or \.parquet"):
        write_embeddings(tmp_path / "e.csv", {}, np.zeros((2, 2), np.float32))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(
        UsageError, match=r"e\.parquet needs pyarrow, .*: pip install 'usucl-fast\[parquet\]'; or name an \.npz"
    ):
        write_embeddings(tmp_path / "e.parquet", {}, np.zeros((2, 2), np.float32))
    assert not list(tmp_path.iterdir())
