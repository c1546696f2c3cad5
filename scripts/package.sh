#!/bin/sh
# Makes the Debian package, with manual pages and completions of the program that is in it.
#
#     scripts/package.sh              # builds the program first
#     scripts/package.sh --no-build   # with target/release/nightschool as it is
#
# Needs cargo-deb (`cargo install cargo-deb`). The program is taken from $CARGO_TARGET_DIR, or target.
# Further arguments are cargo-deb's, such as `--output DIR`.
set -eu

cd "$(dirname "$0")/.."
target="${CARGO_TARGET_DIR:-target}"
if [ "${1:-}" = --no-build ]; then
    shift
else
    cargo build --release --locked
fi
program="$target/release/nightschool"
made=target/package
rm -rf "$made"
mkdir -p "$made/completions"
"$program" man "$made/man"
for shell in bash zsh fish; do
    "$program" completions "$shell" > "$made/completions/nightschool.$shell"
done
cargo deb --no-build --locked "$@"
