#!/usr/bin/env bash
# Builds the programs that some tests and benches have as peers: an endpoint on the released Rust
# crates (tests/rust_peer), the relay server and the DNS server of the same release. Needs cargo, and
# some minutes once.
#
#     bash tools/build_peers.sh
#
# IROH_FAST_PEERS=DIR   where they are kept, outside of any tree (default: iroh_fast/peers in the
#                       user's cache); tests look in the same place
set -euo pipefail
cd "$(dirname "$0")/.."

place=${IROH_FAST_PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/iroh_fast/peers}
release=1.4.1 # of the servers; tests/rust_peer/Cargo.toml names the rest

command -v cargo >/dev/null || { echo "no cargo: the peers in Rust are not built" >&2; exit 1; }
mkdir -p "$place/bin"

state=$(find tests/rust_peer -type f | sort | xargs cat | cksum)
if [ ! -x "$place/bin/peer" ] || [ "$(cat "$place/peer.state" 2>/dev/null)" != "$state" ]; then
    echo "== building the peer (some minutes)"
    # Copied, so that no lock file and nothing built gets into the tree.
    rm -rf "$place/source"
    cp -r tests/rust_peer "$place/source"
    cargo build --release --quiet --manifest-path "$place/source/Cargo.toml" --target-dir "$place/target"
    cp "$place/target/release/peer" "$place/bin/peer"
    printf '%s' "$state" >"$place/peer.state"
fi
# server CRATE STATE [option of cargo]...: a program of a released crate
server() {
    local crate=$1 state=$2
    shift 2
    if [ ! -x "$place/bin/$crate" ] || [ "$(cat "$place/$state.state" 2>/dev/null)" != "$release" ]; then
        echo "== building $crate $release (some minutes)"
        CARGO_TARGET_DIR=$place/target cargo install --quiet --force --root "$place" \
            "$crate" --version "=$release" "$@"
        printf '%s' "$release" >"$place/$state.state"
    fi
}
server iroh-relay relay --features server
server iroh-dns-server dns-server
echo "== peers in $place/bin"
