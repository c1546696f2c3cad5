#!/usr/bin/env bash
# Builds the program and its tests with the `cuda` feature, and runs the CUDA tests where there is
# a GPU. Compiling candle's kernels takes about 15 minutes of one core, so this is not part of CI.
#
#   scripts/check_cuda.sh            # with the CUDA toolkit of the system
#
# Without a GPU it shows only that everything compiles and links.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target/cuda}
export CARGO_TARGET_DIR=$target
cargo build --release --locked --features cuda
cargo test --release --locked --features cuda --test it --no-run
if command -v nvidia-smi > /dev/null && nvidia-smi > /dev/null 2>&1; then
  cargo test --release --locked --features cuda --test it -- cuda::
  "$target/release/nightschool" bench train --device cuda --json
else
  echo "no GPU here: compiled, not run" >&2
fi
