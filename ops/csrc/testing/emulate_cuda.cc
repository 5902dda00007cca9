// A C interface to the CUDA kernels, run by the emulator, and to their index arithmetic: for tests.
// Not part of the released library.
#define SLC_CUDA_EMULATED 1
#include <map>

#include "../cuda/kernels.cu"
#include "../cuda/launch.h"
#include "emulated_kernels.h"

#define SLC_TEST_API extern "C" __attribute__((visibility("default")))

namespace slc::cuda {
namespace {

template <class Arguments, void (*kKernel)(Arguments)>
EmulatedKernel Emulated(int warps_max) {
  return {[](long long x, long long y, int threads, int shared_bytes, int cluster, unsigned seed,
             const void* arguments) {
            const auto& in = *static_cast<const Arguments*>(arguments);
            emulated::Launch(x, y, threads, shared_bytes, cluster, seed, [&] { kKernel(in); });
          },
          32 * warps_max, static_cast<int>(sizeof(Arguments))};
}

#define SLC_ONE(name, Arguments, warps_max) {#name, Emulated<Arguments, name>(warps_max)}
#define SLC_STREAM_OF(name, rows) \
  SLC_ONE(slc_stream_##name##_##rows, GemmArguments, StreamWarpsMax(rows))
#define SLC_GEMMS(name)                                                               \
  SLC_STREAM_OF(name, 8), SLC_STREAM_OF(name, 16), SLC_STREAM_OF(name, 32),           \
      SLC_STREAM_OF(name, 64), SLC_ONE(slc_tiled_##name, GemmArguments, kTiledWarps), \
      SLC_ONE(slc_wide_##name, GemmArguments, kWideWarps)

const std::map<std::string, EmulatedKernel>& AllKernels() {
  static const std::map<std::string, EmulatedKernel> kernels = {
      SLC_GEMMS(f16_half),
      SLC_GEMMS(f16_float),
      SLC_GEMMS(i8_half),
      SLC_GEMMS(i8_float),
      SLC_GEMMS(i4_half),
      SLC_GEMMS(i4_float),
      SLC_ONE(slc_down_half, DownArguments, kAdapterWarps),
      SLC_ONE(slc_down_float, DownArguments, kAdapterWarps),
      SLC_ONE(slc_up_half, UpArguments, kAdapterWarps),
      SLC_ONE(slc_up_float, UpArguments, kAdapterWarps),
      SLC_ONE(slc_down_gemm, DownArguments, kAdapterWarps),
      SLC_ONE(slc_up_gemm, UpArguments, kAdapterWarps),
      SLC_ONE(slc_check, CheckArguments, kCheckThreads / 32)};
  return kernels;
}

}  // namespace

const EmulatedKernel* FindEmulated(const std::string& name) {
  const auto found = AllKernels().find(name);
  return found == AllKernels().end() ? nullptr : &found->second;
}

unsigned long long TakeBytesRead() {
  const unsigned long long bytes = emulated::BytesRead();
  emulated::BytesRead() = 0;
  return bytes;
}

}  // namespace slc::cuda

namespace {

void Emulate(const std::string& name, const Grid& grid, unsigned seed, const void* arguments) {
  FindEmulated(name)->launch(grid.x, grid.y, grid.threads, grid.shared_bytes, grid.cluster, seed,
                             arguments);
}

}  // namespace

// Y by one way to launch it. Pointers as in GemmArguments.
SLC_TEST_API void slc_emulate_gemm(int value_type, int float_x, const GemmPlan* plan, unsigned seed,
                                   const GemmArguments* in) {
  Emulate(GemmName(value_type, float_x, *plan), GemmGrid(value_type, *plan, in->S.n, in->m), seed,
          in);
}

SLC_TEST_API void slc_emulate_down(int float_x, unsigned seed, const DownArguments* in) {
  const AdapterLaunch launch = DownLaunch(*in, float_x != 0);
  Emulate(launch.name, launch.grid, seed, in);
}

SLC_TEST_API void slc_emulate_up(int float_x, unsigned seed, const UpArguments* in) {
  const AdapterLaunch launch = UpLaunch(*in, float_x != 0);
  Emulate(launch.name, launch.grid, seed, in);
}

SLC_TEST_API void slc_emulate_check(const CheckArguments* in) {
  Emulate("slc_check", CheckGrid(in->S.tiles * in->S.blocks), 0, in);
}

SLC_TEST_API unsigned long long slc_take_bytes_read() { return TakeBytesRead(); }

// gpu_table.h.
SLC_TEST_API void slc_choose_plan(int sm, int sms, int shared_bytes, int clusters, int value_type,
                                  long long n, long long k, long long m, GemmPlan* plan) {
  *plan = ChoosePlan({GpuRowFor(sm), sms, shared_bytes, clusters}, value_type, n, k, m);
}
SLC_TEST_API void slc_gpu_row(int sm, GpuRow* row) { *row = GpuRowFor(sm); }
SLC_TEST_API int slc_plan_shared(int value_type, const GemmPlan* plan) {
  return PlanShared(value_type, *plan);
}

// tile_map.h, by name and two arguments.
SLC_TEST_API int slc_tile_map(const char* name, int a, int b) {
  const auto is = [name](const char* other) { return std::strcmp(name, other) == 0; };
  if (is("WordOf")) return WordOf(a, b);
  if (is("BitOf")) return BitOf(a, b);
  if (is("RowOf")) return RowOf(a, b);
  if (is("ColumnOf")) return ColumnOf(a, b);
  if (is("LaneRow")) return LaneRow(a);
  if (is("LaneColumn")) return LaneColumn(a);
  if (is("LaneWord")) return LaneWord(a, b);
  if (is("LaneBit")) return LaneBit(a);
  if (is("MaxUnits")) return MaxUnits(a);
  if (is("ValuesInUnit")) return ValuesInUnit(a);
  return -1;
}

SLC_TEST_API int slc_values_before(unsigned word, int lane) { return ValuesBefore(word, lane); }
SLC_TEST_API long long slc_blocks_of_split(long long blocks, int split, int splits) {
  return BlocksOfSplit(blocks, split, splits);
}

// m16n8k16 by itself, for a test against the definition: A [16, 16], B [16, 8], C [16, 8]
// row-major.
SLC_TEST_API void slc_emulate_mma(const u16* A, const u16* B, float* C) {
  emulated::Launch(1, 1, 32, 0, 1, 0, [&] {
    const int g = Lane() / 4, t = Lane() % 4;
    const auto pair = [](const u16* at, int step) {
      return static_cast<u32>(at[0]) | static_cast<u32>(at[step]) << 16;
    };
    u32 a[4];
    for (int i = 0; i < 4; ++i) a[i] = pair(A + (g + i % 2 * 8) * 16 + 2 * t + i / 2 * 8, 1);
    float c[4];
    for (int i = 0; i < 4; ++i) c[i] = C[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
    Mma(c, a, pair(B + 2 * t * 8 + g, 8), pair(B + (2 * t + 8) * 8 + g, 8));
    for (int i = 0; i < 4; ++i) C[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = c[i];
  });
}
