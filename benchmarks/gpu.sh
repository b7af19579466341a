#!/usr/bin/env bash
# Checks and times of the kernels on one GPU: bash benchmarks/gpu.sh result.json [arguments of gpu.py]
set -euo pipefail
result=$(realpath -m "${1:?where to write the JSON}")
shift
test -d "$(dirname "$result")" || { echo "there is no folder $(dirname "$result")" >&2; exit 2; }
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"

# Without the settings of this repository, because they ask for plugins that a bare machine lacks.
tests=0
if "$python" -c 'import pytest' 2>/dev/null; then
    # What fails there is said at the end: gpu.py compares for itself before it times anything.
    # The published windows and whole models; all kinds of windows take longer to compile than there is time.
    timeout 90 "$python" -m pytest -q -c /dev/null --rootdir . --noconftest -p no:cacheprovider \
        -W ignore::pytest.PytestUnknownMarkWarning -k "published or model or compiled or captured or autocast" \
        tests/acceleration/test_kernels_on_a_gpu.py || tests=1
else
    echo "pytest is not here: the tests on the GPU are left out" >&2
fi
"$python" benchmarks/gpu.py "$result" "$@"
exit "$tests"
