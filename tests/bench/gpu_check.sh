#!/bin/sh
# Everything a GPU machine is needed for, in one go of under nine minutes:
#
#   tests/bench/gpu_check.sh [FOLDER]
#
# builds libslc_ops_cuda.so, holds every kernel against float64, runs compute-sanitizer where there is
# one, then times them against cuBLAS with cold caches inside CUDA graphs. FOLDER (build/gpu) gets
# gpu_check.json and a table. Wants python3 with torch for CUDA, numpy and ml_dtypes, cmake and a C++
# compiler; NVRTC's packages (`make cuda` installs them) or images in build/cuda already.
set -eu
cd "$(dirname "$0")/../.."
out=${1:-build/gpu}
python=${PYTHON:-python3}
mkdir -p "$out"

[ -f build/cuda/images.cc ] || "$python" ops/csrc/cuda/build_images.py -o build/cuda
cmake -S ops -B build/gpu-lib -DSLC_CUDA_IMAGES="$PWD/build/cuda" >"$out/build.log"
cmake --build build/gpu-lib --target slc_ops_cuda --parallel >>"$out/build.log"

# The package without installing it: the folders under the names they are imported by.
mkdir -p build/gpu-path/slc
for part in ops compiler targets; do ln -sfn "$PWD/$part" build/gpu-path/slc/$part; done
PYTHONPATH=$PWD/build/gpu-path${PYTHONPATH:+:$PYTHONPATH}
export PYTHONPATH
library=build/gpu-lib/libslc_ops_cuda.so

"$python" tests/bench/gpu_check.py correct --library $library --out "$out"
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    compute-sanitizer --tool $tool --error-exitcode 9 --log-file "$out/$tool.log" \
      "$python" tests/bench/gpu_check.py correct --few --library $library --out "$out" &&
      echo "$tool: clean" || echo "$tool: FAILED, or does not run here: $out/$tool.log"
  done
else
  echo "compute-sanitizer: not here"
fi
"$python" tests/bench/gpu_check.py time --library $library --out "$out"
