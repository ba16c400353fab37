#!/bin/sh
# Formatter, linter and type checker, as CI runs them. `tools/check.sh --fix` mends what can be mended.
set -e
cd "$(dirname "$0")/.."
if [ "$1" = --fix ]; then
  ruff format .
  ruff check --fix .
fi
ruff format --check .
ruff check .
mypy
