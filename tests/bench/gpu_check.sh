#!/bin/sh
# Everything a GPU machine is needed for, in one go of under nine minutes, each part within seconds
# of its own; a part that fails does not stop those after it, and is the exit status:
#
#   tests/bench/gpu_check.sh [FOLDER]
#
# builds libslc_ops_cuda.so, holds every kernel and split against float64, times them against cuBLAS
# with cold caches inside CUDA graphs, times what gpu_table.h could say instead, runs
# compute-sanitizer where there is one, and asks onnxruntime's CUDA provider for our operators.
# FOLDER (build/gpu) gets gpu_check.json and gpu_check.md. Nothing is fetched. Wants a driver and
# python3 with numpy; cuBLAS of any Python package or toolkit for ratios; and images in build/cuda
# (`make cuda`, anywhere) or NVRTC's packages, with cmake and a C++ compiler. Where there is no
# compiler it takes build/gpu-lib/libslc_ops_cuda.so, made where there is one:
#
#   cmake -S ops -B build/gpu-lib -DSLC_CUDA_IMAGES="$PWD/build/cuda"
#   cmake --build build/gpu-lib --target slc_ops_cuda
#
# Git ignores build/: both folders have to be taken along by name.
set -u
cd "$(dirname "$0")/../.."
out=${1:-build/gpu}
python=${PYTHON:-python3}
dry=${DRY:+--dry}  # tests: an emulated driver
failed=0
mkdir -p "$out"
start=$(date +%s)

say() { echo "== $(($(date +%s) - start)) s: $*"; }
part() {  # seconds, what to call it, command
  limit=$1 name=$2
  shift 2
  say "$name"
  timeout -k 5 "$limit" "$@" || { echo "$name: FAILED, status $?"; failed=1; }
}

build() {
  [ -f build/cuda/images.cc ] || "$python" ops/csrc/cuda/build_images.py -o build/cuda || return 1
  # Made on another machine it names another folder.
  sed -i "s#\.incbin \".*/#.incbin \"$PWD/build/cuda/#" build/cuda/images.S
  command -v ninja >/dev/null && generator="-G Ninja" || generator=
  targets=slc_ops_cuda
  "$python" -c 'import onnxruntime as o, sys
sys.exit("CUDAExecutionProvider" not in o.get_available_providers())' 2>/dev/null &&
    targets="$targets slc_ops"
  # shellcheck disable=SC2086
  timeout 15 cmake -S ops -B "$out/lib" $generator -DSLC_CUDA_IMAGES="$PWD/build/cuda" &&
    timeout 60 cmake --build "$out/lib" --target $targets --parallel
}

library=${SLC_CUDA_LIBRARY:-$out/lib/libslc_ops_cuda.so}
if [ -z "${SLC_CUDA_LIBRARY:-}" ]; then
  say build
  if ! build >"$out/build.log" 2>&1; then
    library=build/gpu-lib/libslc_ops_cuda.so
    [ -f $library ] || { tail -5 "$out/build.log"; echo "nothing to check"; exit 2; }
    echo "can't build here ($out/build.log): the library that was carried along"
  fi
fi

# The package without installing it: the folders under the names they are imported by.
mkdir -p "$out/path/slc"
for name in ops compiler targets; do ln -sfn "$PWD/$name" "$out/path/slc/$name"; done
PYTHONPATH=$(cd "$out/path" && pwd)${PYTHONPATH:+:$PYTHONPATH}
PYTHONUNBUFFERED=1
export PYTHONPATH PYTHONUNBUFFERED
rm -f "$out/gpu_check.json"
check() { # limit, what, options
  limit=$1 what=$2
  shift 2
  # shellcheck disable=SC2086
  part "$limit" "$what" "$python" tests/bench/gpu_check.py "$what" $dry \
    --library "$library" --out "$out" "$@"
}

check 105 correct --seconds "${SECONDS_CORRECT:-75}"
check 135 time --seconds "${SECONDS_TIME:-105}"
check 100 tune --seconds "${SECONDS_TUNE:-75}"
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    say $tool
    timeout -k 5 45 compute-sanitizer --tool $tool --error-exitcode 9 --log-file "$out/$tool.log" \
      "$python" tests/bench/gpu_check.py correct --few --seconds 25 --library "$library" \
      --out "$out"
    status=$?
    [ $status = 0 ] && verdict=clean || { failed=1 verdict="status $status: $tool.log"; }
    "$python" tests/bench/gpu_check.py note --note "$tool=$verdict" --library - --out "$out"
  done
else
  echo "compute-sanitizer: not here"
fi
check 20 ort
check 10 table
say "done, status $failed"
exit $failed
