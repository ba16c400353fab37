#!/bin/sh
# The whole way on made-up videos: phantoms -> shards -> training -> evaluation. Usage: tools/demo.sh FOLDER [SEED]
set -e
tools=$(dirname "$0")
demo=$1
seed=${2:-0}
rm -rf "$demo"
mkdir -p "$demo"
say() { echo; echo "$@"; }
say "1. Making ultrasound-like videos of 48 patients, two of each; in some frames of some there is a lesion"
python "$tools/make_phantoms.py" "$demo/videos" --videos 96 --frames 48 --width 160 --height 120 --seed "$seed"
say "2. Packing them into shards, with the label of each frame"
usucl-shard "$demo/videos" "$demo/shards" --size 120 --labels "$demo/videos/labels.csv" --labels "$demo/videos/frames.csv"
say "3. Training with NVIDIA DALI, without labels"
# A small network for a small question: half a million weights see a 96-pixel picture in a fifth of ResNet18's time.
small="--arch timm/test_resnet --size 96"
usucl-train "$demo/shards" --dali $small --batch-size 32 --steps 300 --seed "$seed" --out "$demo/run"
say "4. Is there a lesion in this frame, and which? The nearest frames of other patients, of which it is known, answer"
evaluate() { usucl-eval "$1" "$demo/shards" $small --protocol knn --seed "$seed" --out "$2" >"$2.txt"; }
evaluate random "$demo/eval-random"
evaluate "$demo/run" "$demo/eval"
say "5. Frames that the trained network finds alike, of other patients"
usucl-eval embed "$demo/run" "$demo/shards" --frames 16 --out "$demo/embeddings.npz" --picture "$demo/neighbours.png"
say "Untrained and trained, on the same frames and folds:"
usucl-eval compare trained="$demo/eval" untrained="$demo/eval-random" --baseline untrained --out "$demo/comparison"
cat <<TEXT

Look at, in $demo:
  neighbours.png            frames, and those of other patients that the trained network finds most alike
  eval/along.png            the probability of each class along some videos, above what is true
  eval/page.html            all figures of the trained network; eval-random/ of the untrained one
  comparison/page.html      both side by side
  run/page.html             curves, what was mined for some frames through the run, a map of the memory bank
  run/metrics.jsonl         loss, embedding spread, frames/s and data wait, a line a step
  run/backbone.safetensors  the trained backbone, with torchvision's names
  shards/sectors.html       what was kept of each video
  shards/                   WebDataset tars, DALI indexes, frames.npy, frame_labels.npz, manifest.json
  videos/                   the videos, labels.csv, and frames.csv: what is true of each frame
TEXT
