#!/bin/sh
# The whole way on made-up videos: phantoms -> shards -> training -> evaluation. Usage: tools/demo.sh FOLDER
set -e
tools=$(dirname "$0")
demo=$1
rm -rf "$demo"
echo "1. Making ultrasound-like videos"
python "$tools/make_phantoms.py" "$demo/videos"
echo "2. Packing them into shards"
usucl-shard "$demo/videos" "$demo/shards" --labels "$demo/videos/labels.csv"
echo "3. Training with NVIDIA DALI"
usucl-train "$demo/shards" --dali --size 112 --epochs 60 --out "$demo/run"
echo "4. Telling the phantoms' lesions apart by the untrained backbone, and by the trained one"
usucl-eval random "$demo/shards" --size 112 --protocol linear --out "$demo/eval-random"
usucl-eval "$demo/run" "$demo/shards" --protocol linear --out "$demo/eval"
usucl-eval compare trained="$demo/eval" random="$demo/eval-random" --out "$demo/comparison"
cat <<TEXT
(A minute of training on 12 made-up patients shows that the way works, not yet that the method does: see the intervals.)
Everything lies in $demo:
  videos/                   the videos and labels.csv
  shards/                   WebDataset tars, DALI indexes, frames.npy, manifest.json
  run/metrics.jsonl         loss, embedding spread, frames/s and data wait, a line a step
  run/summary.json          the last of them
  run/backbone.safetensors  the trained backbone, with torchvision's names
  eval/, eval-random/       page.html: accuracy, recall, confusion matrix, by frame and by video
  comparison/page.html      both side by side
TEXT
