#!/usr/bin/env bash
# Builds with the address and undefined behaviour sanitizers, apart from the work tree, and runs
# the unit, core and fuzz tests, then the fuzzer itself.
#
#     bash tools/sanitize.sh [seconds of fuzzing per target, default 20] [pytest arguments]
#
# PYTHON=…     interpreter (default python3)
# SANITIZE=…   sanitizers (default address and most of undefined)
# LEAKS=1      also look for leaks; needs an interpreter that does not leak by itself
# KEEP=DIR     build there and keep it, so that the next run only compiles what has changed
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-20}
[ $# -gt 0 ] && shift
python=${PYTHON:-python3}
sanitize=${SANITIZE:-address,undefined}
read -ra compiler <<<"${CC:-gcc}" # there may be a launcher before it

if [ -n "${KEEP:-}" ]; then
    place=$KEEP
    mkdir -p "$place"
else
    place=$(mktemp -d)
    trap 'rm -rf "$place"' EXIT
fi
place=$(cd "$place" && pwd)

# A copy, because sanitized modules and generated code must not get among the others.
python3 tools/copy_tree.py "$place/tree"
if [ ! -x "$place/venv/bin/python" ]; then
    "$python" -m venv "$place/venv"
fi
run=$place/venv/bin/python
"$run" -m pip install --quiet --disable-pip-version-check "setuptools>=77" "Cython>=3.1,<4"
cd "$place/tree"
"$run" - >"$place/requirements" <<'PY'
import re, tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
def listed(specs):
    for spec in specs:
        if own := re.match(r"iroh-fast\[([\w,-]+)\]", spec):
            for extra in own[1].split(","):
                yield from listed(project["optional-dependencies"][extra])
        else:
            yield spec
print("\n".join(listed([*project["dependencies"], "iroh-fast[test-core]"])))
PY
"$run" -m pip install --quiet --disable-pip-version-check -r "$place/requirements"

echo "== building with -fsanitize=$sanitize"
CC=${compiler[*]} IROH_FAST_SANITIZE=$sanitize "$run" setup.py -q build_ext --inplace

runtime=()
case $sanitize in *address*) runtime+=("$("${compiler[@]}" -print-file-name=libasan.so)") ;; esac
case $sanitize in *undefined* | *bounds*) runtime+=("$("${compiler[@]}" -print-file-name=libubsan.so)") ;; esac
for library in "${runtime[@]}"; do
    [ -e "$library" ] || { echo "no $library: install the sanitizers of ${compiler[*]}" >&2; exit 1; }
done
# The interpreter is not instrumented: its modules must find the C++ runtime through ours.
runtime+=("$("${compiler[@]}" -print-file-name=libstdc++.so.6)")
preload=$(IFS=:; echo "${runtime[*]}")

asan_options=detect_leaks=${LEAKS:-0}:abort_on_error=1:detect_stack_use_after_return=1
# Handlers of faulthandler would come before the report of the sanitizer.
asan_options+=:allocator_may_return_null=1:allow_user_segv_handler=0

sanitized() {
    env LD_PRELOAD="$preload" PYTHONPATH=src PYTHONMALLOC=malloc \
        ASAN_OPTIONS="$asan_options" \
        UBSAN_OPTIONS="halt_on_error=1:print_stacktrace=1" \
        "$run" "$@"
}

sanitized -c '
from iroh_fast import build_info
build = build_info()["build"]
assert build["sanitize"], build
print("== running with", build["sanitize"], "by", build["compiler"])
'
# Their reports go to the terminal, which pytest must not capture.
sanitized -m pytest -v --capture=sys -o timeout=900 -o faulthandler_timeout=1000 \
    tests/unit tests/net tests/quic tests/fuzz tests/relay/test_relay_codec.py "$@"
if [ "$seconds" != 0 ]; then
    for target in $(sanitized tests/fuzz/run.py --list); do
        sanitized tests/fuzz/run.py --target "$target" --seconds "$seconds" --folder "$place/findings"
    done
fi
echo "== nothing found"
