#include "slc_cuda.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "../packed_tiles.h"
#include "images.h"
#include "modules.h"

namespace slc::cuda {
namespace {

// Runs `body`; whatever it throws comes back as a sentence.
template <class Body>
const char* Guarded(const Body& body) noexcept {
  static thread_local std::string reason;
  try {
    body();
    return nullptr;
  } catch (const std::exception& error) {
    reason = error.what();
  } catch (...) {
    reason = "unknown error";
  }
  return reason.c_str();
}

// What a device function leaves behind, in memory that is freed again.
class DeviceWords {
 public:
  explicit DeviceWords(size_t bytes) {
    CheckCuda(TheDriver().MemAlloc(&pointer_, bytes), "cuMemAlloc");
    CheckCuda(TheDriver().MemsetD8(pointer_, 0, bytes), "cuMemset");
  }
  ~DeviceWords() { TheDriver().MemFree(pointer_); }
  DeviceWords(const DeviceWords&) = delete;
  DeviceWords& operator=(const DeviceWords&) = delete;

  CuPointer get() const { return pointer_; }

 private:
  CuPointer pointer_ = 0;
};

void CopyBack(void* to, const void* from, size_t bytes) {
  CheckCuda(TheDriver().MemcpyDtoH(to, reinterpret_cast<CuPointer>(from), bytes), "cuMemcpyDtoH");
}

TileMatrix MatrixOf(const PackedHeader& header, const TilesSections& at, const char* base) {
  TileMatrix S{};
  S.n = static_cast<long long>(header.n);
  S.k = static_cast<long long>(header.k);
  S.tiles = at.tiles;
  S.blocks = at.blocks;
  S.group_blocks = header.group / kBlockColumns;
  S.groups = at.groups;
  S.starts = reinterpret_cast<const unsigned*>(base + at.starts);
  S.masks = reinterpret_cast<const unsigned*>(base + at.masks);
  S.scales = reinterpret_cast<const unsigned short*>(base + at.scales);
  S.codebook = reinterpret_cast<const signed char*>(base + at.codebook);
  S.values = reinterpret_cast<const unsigned char*>(base + at.values);
  // Two factors, since 2^-149 times a sum must not vanish before it has to.
  const int first = std::clamp(header.exponent, -126, 126);
  S.scale_first = std::ldexp(1.0f, first);
  S.scale_second = std::ldexp(1.0f, header.exponent - first);
  return S;
}

// What the checks of a whole blob on the CPU find, found on the device: the structure, not the
// checksum, for which every byte before the values would have to come back.
void CheckOnDevice(const PackedHeader& header, const Blob& blob) {
  DeviceWords words(16);
  CheckArguments in{};
  in.S = blob.S;
  in.value_type = blob.value_type;
  in.stored = reinterpret_cast<unsigned long long*>(words.get());
  in.faults = reinterpret_cast<unsigned*>(words.get() + 8);
  Launch(CurrentKernels().Find("slc_check"), CheckGrid(blob.S.tiles * blob.S.blocks), &in, nullptr,
         "slc_check");
  unsigned long long found[2] = {0, 0};
  CopyBack(found, reinterpret_cast<const void*>(words.get()), sizeof(found));
  const auto faults = static_cast<unsigned>(found[1]);
  const auto fail = [](const std::string& text) { throw CudaError("packed blob: " + text); };
  if ((faults & (kStartsWrong | kFirstStartWrong)) != 0) {
    fail("an entry of starts is not where the masks before it end");
  }
  if ((faults & kBitOutside) != 0) fail("a mask bit beyond N or K");
  if ((faults & kCodebookWrong) != 0) fail("an entry of the codebook beyond -63 … 63");
  if (found[0] != header.nnz) {
    fail("mask bits: got " + std::to_string(found[0]) + ", wanted " + std::to_string(header.nnz));
  }
}

void OpenBlob(const void* packed, uint64_t bytes, Blob* blob) {
  CurrentKernels();
  const auto* base = static_cast<const char*>(packed);
  if (bytes < sizeof(PackedHeader) || reinterpret_cast<uintptr_t>(base) % kUnitBytes != 0) {
    throw CudaError("packed blob: got " + std::to_string(bytes) +
                    " bytes, wanted 64 or more at an address that is a multiple of 16");
  }
  PackedHeader header;
  CopyBack(&header, base, sizeof(header));
  TilesSections at{};
  std::string error;
  if (!ParseTilesHeader(header, bytes, &at, &error)) throw CudaError(error);
  unsigned units = 0;
  CopyBack(&units, base + at.starts + 4 * at.tiles * at.blocks, sizeof(units));
  if (!CheckTilesLength(header, bytes, units, &error)) throw CudaError(error);
  *blob = {MatrixOf(header, at, base), header.value_type, 0};
  CheckOnDevice(header, *blob);
}

void Gemm(const GemmPlan& plan, const Blob& blob, const void* x, int x_type, const float* bias,
          void* y, long long m, void* stream) {
  GemmArguments in{blob.S, x, bias, y, m};
  const std::string name = GemmName(blob.value_type, x_type == kXFloat, plan);
  Launch(CurrentKernels().Find(name), GemmGrid(blob.value_type, plan, blob.S.n, m), &in, stream,
         name.c_str());
}

GemmPlan PlanOf(const Blob& blob, long long m) {
  return ChoosePlan(CurrentKernels().gpu(), blob.value_type, blob.S.n, blob.S.k, m);
}

// What a caller made up is held against what kernels can do.
void CheckPlan(const GemmPlan& plan, int value_type) {
  const Gpu& gpu = CurrentKernels().gpu();
  const bool stream = (plan.rows == 8 || plan.rows == 16 || plan.rows == 32 || plan.rows == 64) &&
                      plan.warps >= 1 && plan.warps <= StreamWarpsMax(plan.rows);
  const bool tiled = IsTiled(plan) && plan.warps == kTiledWarps;
  const bool wide = IsWide(plan) && plan.rows == WideRows(value_type) && gpu.row.wide_rows_min != 0;
  const int clusters = gpu.clusters != 0 ? gpu.row.cluster_max : 1;
  if ((stream || tiled || wide) && plan.cluster >= 1 && plan.cluster <= clusters &&
      PlanShared(value_type, plan) <= gpu.shared_bytes) {
    return;
  }
  throw CudaError("plan: got " + std::to_string(plan.rows) + " rows, " +
                  std::to_string(plan.warps) + " warps, a cluster of " +
                  std::to_string(plan.cluster) +
                  ", wanted one of those of gpu_table.h on this GPU");
}

}  // namespace
}  // namespace slc::cuda

using namespace slc::cuda;  // NOLINT: a file of entry points

int slc_cuda_interface_version() { return kInterfaceVersion; }

const char* slc_cuda_images() {
  static const std::string names = ImageNames();
  return names.c_str();
}

const char* slc_cuda_prepare() {
  return Guarded([] { CurrentKernels(); });
}

const char* slc_cuda_open_blob(const void* packed, unsigned long long bytes, Blob* blob) {
  return Guarded([&] { OpenBlob(packed, bytes, blob); });
}

const char* slc_cuda_bitmap_sparse_gemm(const Blob* blob, const void* x, int x_type,
                                        const float* bias, void* y, long long m, void* stream) {
  return Guarded([&] { Gemm(PlanOf(*blob, m), *blob, x, x_type, bias, y, m, stream); });
}

const char* slc_cuda_gemm_plan(const Blob* blob, long long m, GemmPlan* plan) {
  return Guarded([&] { *plan = PlanOf(*blob, m); });
}

const char* slc_cuda_gemm_by(const GemmPlan* plan, const Blob* blob, const void* x, int x_type,
                             const float* bias, void* y, long long m, void* stream) {
  return Guarded([&] {
    CheckPlan(*plan, blob->value_type);
    Gemm(*plan, *blob, x, x_type, bias, y, m, stream);
  });
}

const char* slc_cuda_adapter_down(const DownArguments* arguments, int x_type, void* stream) {
  return Guarded([&] {
    DownArguments in = *arguments;
    const AdapterLaunch launch = DownLaunch(in, x_type == kXFloat);
    Launch(CurrentKernels().Find(launch.name), launch.grid, &in, stream, launch.name);
  });
}

const char* slc_cuda_adapter_up(const UpArguments* arguments, int x_type, void* stream) {
  return Guarded([&] {
    UpArguments in = *arguments;
    const AdapterLaunch launch = UpLaunch(in, x_type == kXFloat);
    Launch(CurrentKernels().Find(launch.name), launch.grid, &in, stream, launch.name);
  });
}
