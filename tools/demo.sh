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
usucl-shard "$demo/videos" "$demo/shards" --size 96 --labels "$demo/videos/labels.csv" --labels "$demo/videos/frames.csv"
say "3. Training with NVIDIA DALI, without labels"
# SGD: of the two optimisers it told lesions better than the default, AdamW, on the one seed on which both were tried.
usucl-train "$demo/shards" --dali --size 80 --steps 240 --optimizer sgd --lr 0.03 --seed "$seed" --out "$demo/run"
say "4. Is there a lesion in this frame, and which? Asked of patients that the classifier has not seen"
evaluate() { usucl-eval "$1" "$demo/shards" --size 80 --protocol linear --seed "$seed" --out "$2" >"$2.txt"; }
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
  run/metrics.jsonl         loss, embedding spread, frames/s and data wait, a line a step
  run/backbone.safetensors  the trained backbone, with torchvision's names
  shards/                   WebDataset tars, DALI indexes, frames.npy, frame_labels.npz, manifest.json
  videos/                   the videos, labels.csv, and frames.csv: what is true of each frame
TEXT
