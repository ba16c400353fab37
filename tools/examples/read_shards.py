"""Reads shards with what others have: webdataset, NVIDIA DALI, Hugging Face datasets. All see the same frames.

Usage: python tools/examples/read_shards.py SHARDS
"""

import sys
from pathlib import Path


def with_webdataset(shards: Path) -> int:
    """Counts the frames; keys are `<video>/<frame>`."""
    import webdataset

    tars = [str(tar) for tar in sorted(shards.glob("*.tar"))]
    return sum(1 for sample in webdataset.WebDataset(tars, shardshuffle=False).decode("pil") if sample["__key__"])


def with_dali(shards: Path, batch: int = 8) -> int:
    """The same by DALI's reader, decoded on the CPU; the .idx files beside the tars let it begin anywhere."""
    from nvidia.dali import fn, pipeline_def, types

    tars = sorted(shards.glob("*.tar"))

    @pipeline_def(batch_size=batch, num_threads=2, device_id=None)
    def pipeline() -> object:
        paths, indexes = [str(tar) for tar in tars], [str(tar.with_suffix(".idx")) for tar in tars]
        data = fn.readers.webdataset(paths=paths, index_paths=indexes, ext=["jpg;png"], name="frames")
        return fn.decoders.image(data, device="cpu", output_type=types.GRAY)

    made = pipeline()
    made.build()
    frames = int(made.reader_meta("frames")["epoch_size"])
    return sum(len(made.run()[0]) for _ in range(frames // batch)) + frames % batch


def with_datasets(shards: Path) -> int:
    """The same as a streaming dataset of Hugging Face."""
    import datasets

    tars = [str(tar) for tar in sorted(shards.glob("*.tar"))]
    frames = datasets.load_dataset("webdataset", data_files={"train": tars}, split="train", streaming=True)
    return sum(1 for sample in frames if sample["__key__"])


if __name__ == "__main__":
    for reader in (with_webdataset, with_dali, with_datasets):
        print(reader.__name__, reader(Path(sys.argv[1])), "frames")
