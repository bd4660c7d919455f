#!/usr/bin/env bash
# run.sh OUT [STAGE…]: builds, checks and measures the CUDA kernels on this machine's GPU. Reports
# land in OUT; README.md in this folder says what each stage does. Without stages: build, kernels,
# speed, peer. Needs nvcc 13, g++, python3 with PyTorch for CUDA 13; no network.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
out=$(mkdir -p "${1:?usage: run.sh OUT [STAGE…]}" && cd "$1" && pwd)
shift
[ $# -gt 0 ] || set -- build kernels speed peer
built=${FLUXD_GPU_BUILD:-$out/build}

# Where nvcc says that it is: the command may be a link or a script. And what that is a link to, as
# /usr/local/cuda mostly is: find does not look behind it.
toolkit=$(cd -P "$(nvcc --dryrun -x cu /dev/null 2>&1 | sed -n 's/^#\$ _HERE_=//p')/.." && pwd)
# PyTorch brings cuBLASLt, cuDNN and the runtime as packages of their own, and cuBLASLt's header.
packages=$(python3 -c 'import nvidia; print(*nvidia.__path__, sep="\n")' 2>/dev/null || true)
# What cannot be looked into does not matter.
find_all() { find "$toolkit" ${packages:+$packages} -name "$1" 2>/dev/null || true; }
folders() { xargs -r -n1 dirname | sort -u | paste -sd:; }

libraries=$(for name in libcublasLt.so.13 libcudart.so.13 libcudnn.so.9; do find_all $name; done | folders)
export LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
headers=$(find_all cublasLt.h | head -1 | folders)

stage_build() {
  local native=$root/native
  local arch=${FLUXD_CUDA_ARCH:-90a}
  mkdir -p "$built"
  # A runtime that came as a package has no link to link against.
  ln -sf "$(find_all libcudart.so.13 | head -1)" "$built/libcudart.so"
  local flags="-std=c++20 -O3 -gencode arch=compute_$arch,code=sm_$arch -Xcompiler -fPIC"
  flags+=" -cudart shared -I$native/cuda -I$native/include -I$native"
  {
    for file in "$native"/cuda/*.cu; do
      echo "nvcc $flags -c $file -o $built/cuda.$(basename "$file").o"
    done
    for file in "$here"/speed/*.cu; do
      echo "nvcc $flags -c $file -o $built/speed.$(basename "$file").o"
    done
    for file in "$native"/weights/*.cc; do
      echo "g++ -std=c++20 -O3 -I$native -I$native/include -c $file -o $built/weights.$(basename "$file").o"
    done
    for file in "$native"/cpu/*.cc; do
      echo "g++ -std=c++20 -O3 -march=native -I$native -I$native/include -c $file -o $built/twin.$(basename "$file").o"
    done
    for file in "$here"/kernels.cc "$here"/*_cases.cc; do
      echo "g++ -std=c++20 -O2 -I$native -I$native/include -I$here -c $file -o $built/cases.$(basename "$file").o"
    done
    if [ -n "$headers" ]; then
      echo "g++ -std=c++20 -fsyntax-only -Wno-deprecated-declarations -I$headers -I$toolkit/include -I$native/cuda $here/lt_abi.cc"
    fi
  } | xargs -P "$(nproc)" -I{} sh -c '{}'
  nvcc -cudart shared -L"$built" -shared "$built"/cuda.*.o -o "$built/libfluxd_cuda.so"
  nvcc -cudart shared -L"$built" "$built"/{speed,weights,cuda}.*.o -o "$built/speed"
  g++ "$built"/cases.*.o "$built"/twin.*.o -o "$built/kernels" -ldl -lpthread
  [ -n "$headers" ] || echo 'no cublasLt.h here: lt_abi.cc was not compiled'
}

stage_kernels() { "$built/kernels" "$built/libfluxd_cuda.so" "$out/kernels.json" full | tee "$out/kernels.log"; }

# The same cases under CUDA's memory checker, small sizes only.
stage_memcheck() {
  compute-sanitizer --error-exitcode 1 "$built/kernels" "$built/libfluxd_cuda.so" "$out/memcheck.json" |
    tee "$out/memcheck.log" | tail -3
  compute-sanitizer --tool racecheck --error-exitcode 1 \
    "$built/kernels" "$built/libfluxd_cuda.so" "$out/racecheck.json" | tee "$out/racecheck.log" | tail -3
}

stage_speed() { "$built/speed" "$out/speed.json" | tee "$out/speed.log"; }

stage_peer() { PYTHONUNBUFFERED=1 python3 "$root/test/bench/torch_peer.py" "$out/peer.json" | tee "$out/peer.log"; }

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | tee "$out/card.txt"
for stage in "$@"; do
  echo "== $stage"
  begun=$SECONDS
  "stage_$stage"
  echo "== $stage took $((SECONDS - begun)) s"
done
