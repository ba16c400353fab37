#!/bin/sh
# `pip install .` as it turns out today: a fresh environment, nothing pinned, no extras; then packing, training and evaluation
# on a few made-up videos. Usage: tools/fresh_install.sh [PYTHON]; without PYTHON, the newest one there is.
set -e
cd "$(dirname "$0")/.."

newest() {
  for version in 3.14 3.13 3.12 3.11; do
    for candidate in "python$version" "$(pyenv root 2>/dev/null)/versions/$version".*/bin/python; do
      # ensurepip: a Python that can make an environment
      if "$candidate" -c "import ensurepip" 2>/dev/null; then
        echo "$candidate"
        return
      fi
    done
  done
  echo "no Python from 3.11 to 3.14 found; name one with: $0 PYTHON" >&2
  return 1
}

python=${1:-$(newest)}
echo "Installing with $(command -v "$python"), $("$python" --version)"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 1' HUP INT TERM
mkdir "$folder/clone"
git archive HEAD | tar -x -C "$folder/clone"
cd "$folder"
"$python" -m venv venv
PATH="$folder/venv/bin:$PATH"
unset PYTHONPATH
(cd clone && pip install --quiet .)
python clone/tools/make_phantoms.py videos --videos 12 --frames 8 --width 96 --height 72
usucl-shard videos shards --labels videos/labels.csv --size 64
usucl-train shards --arch resnet18 --size 32 --epochs 2 --batch-size 4 --out my-run
usucl-eval my-run shards --out eval
python - <<'END'
import platform
from importlib.metadata import version

names = ("torch", "torchvision", "numpy", "numba", "av", "pillow", "scikit-learn")
print("Works: Python", platform.python_version(), *(f"{name} {version(name)}" for name in names))
END
