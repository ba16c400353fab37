#!/bin/bash
# All that needs a GPU, in one call of at most 8 minutes: tests, loaders, search, the paper's schedule, memory.
# Usage: tools/gpu_day.sh [--device cpu] --out DIR
# With --device cpu it is a rehearsal: the same parts, small, in at most 15 minutes. Each part has a time limit and a log of its own, and the next
# one runs whatever became of it; DIR/parts.tsv says how each ended, and DIR/*.json are the figures, for bench/results.
# The commands need not be installed: PYTHONPATH is enough.
set -u
cd "$(dirname "$0")/.." || exit 2
device=cuda out=
while [ $# -gt 0 ]; do
  case $1 in
    --device) device=$2; shift 2 ;;
    --out) out=$2; shift 2 ;;
    *) sed -n 2,6p "$0" >&2; exit 2 ;;
  esac
done
[ -n "$out" ] || { echo "--out DIR is needed: the folder for figures and logs" >&2; exit 2; }
mkdir -p "$out" && out=$(realpath "$out")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"

usucl() { # usucl NAME ARGUMENTS...: one of the four commands
  local name=$1
  shift
  "${PYTHON:-python3}" -c "from usucl_fast.cli.$name import main; main(prog_name='usucl-$name')" "$@"
}

part() { # part NAME SECONDS COMMAND...: runs it under a time limit, and notes how it ended
  local name=$1 limit=$2 begun=$SECONDS left=$((most - SECONDS))
  shift 2
  if [ "$left" -le 0 ]; then
    printf '%s\tfailed (no time left)\t0 s\n' "$name" | tee -a "$out/parts.tsv"
    return 1
  fi
  limit=$((limit < left ? limit : left))
  ( "$@" ) >"$out/$name.log" 2>&1 &
  local job=$!
  ( sleep "$limit"; echo "$name: stopped after $limit s" >>"$out/$name.log"; pkill -TERM -P $job; kill $job ) 2>/dev/null &
  local watch=$!
  wait $job
  local code=$?
  pkill -P $watch 2>/dev/null; kill $watch 2>/dev/null; wait $watch 2>/dev/null
  printf '%s\t%s\t%s s\n' "$name" "$([ $code = 0 ] && echo ok || echo "failed ($code)")" $((SECONDS - begun)) | tee -a "$out/parts.tsv"
  return $code
}

if [ "$device" = cpu ]; then
  videos="--videos 8 --frames 24 --width 160 --height 120" size=64 arch=resnet18 steps=6 batch=8 batches=4
  rows="20000" large="50000" queries="32" runs=2 most=900
else
  videos="--videos 64 --frames 200 --width 640 --height 480" size=224 arch=resnet50 steps=120 batch=32 batches=60
  rows="1000000" large="10000000" queries="32 64 256" runs=5 most=480
fi

: >"$out/parts.tsv"
"${PYTHON:-python3}" -c "from usucl_fast.machine import hardware; print(hardware())" | tee "$out/hardware.txt"
# shellcheck disable=SC2086  # words of their own
part videos 120 "${PYTHON:-python3}" tools/make_phantoms.py "$work/videos" $videos
part shards 120 usucl shard "$work/videos" "$work/shards" --size "$size" --labels "$work/videos/labels.csv"
part tests 150 "${PYTHON:-python3}" -m pytest -q -p no:cacheprovider tests/gpu
for deliver in crops tensors; do
  part "feed-$deliver" 60 usucl bench feed "$work/shards" --arms dali,torch,resident --device "$device" \
    --deliver "$deliver" --size "$size" --batch-size "$batch" --batches "$batches" --runs "$runs" --json "$out/feed-$deliver.json"
done
for asked in $queries; do
  part "mining-$asked" 40 usucl bench mining --device "$device" --rows "$rows" --batch-size "$asked" \
    --arms exact,product-topk,floor-matmul --runs "$runs" --json "$out/mining-$asked.json"
done
part mining-large 60 usucl bench mining --device "$device" --rows "$large" --batch-size 64 \
  --arms exact,product-topk,floor-matmul --runs "$runs" --json "$out/mining-large.json"
for loader in dali torch resident; do # the paper's schedule, the seconds of the whole command in parts.tsv
  part "schedule-$loader" 90 usucl train "$work/shards" --loader "$loader" --device "$device" --arch "$arch" \
    --size "$size" --batch-size "$batch" --steps "$steps" --out "$work/run-$loader" &&
    cp "$work/run-$loader/summary.json" "$out/schedule-$loader.json" &&
    cp "$work/run-$loader/metrics.jsonl" "$out/schedule-$loader.jsonl"
done
part deterministic 60 usucl train "$work/shards" --loader torch --device "$device" --deterministic --arch resnet18 \
  --size 64 --batch-size "$batch" --steps 6 --out "$work/run-deterministic"
part step 60 usucl bench train "$work/shards" --arms usucl,floor-cached --device "$device" --loader resident \
  --arch "$arch" --size "$size" --batch-size "$batch" --steps "$((steps / 6 + 1))" --runs "$runs" --json "$out/train.json"
if grep -q failed "$out/parts.tsv"; then
  echo "some parts failed; their logs are in $out" >&2
  exit 1
fi
