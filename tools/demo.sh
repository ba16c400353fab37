#!/bin/sh
# The whole way on made-up videos: phantoms -> shards -> training. Usage: tools/demo.sh FOLDER
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
cat <<TEXT
Everything lies in $demo:
  videos/                   the videos and labels.csv
  shards/                   WebDataset tars, DALI indexes, frames.npy, manifest.json
  run/metrics.jsonl         loss, embedding spread, frames/s and data wait, a line a step
  run/summary.json          the last of them
  run/backbone.safetensors  the trained backbone, with torchvision's names
TEXT
