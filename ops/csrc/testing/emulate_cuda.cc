// A C interface to the CUDA kernels, run by the emulator, and to their index arithmetic: for tests.
// Not part of the released library.
#define SLC_CUDA_EMULATED 1
#include "../cuda/kernels.cu"
#include "../cuda/launch.h"

#define SLC_TEST_API extern "C" __attribute__((visibility("default")))

namespace {

using Gemm = void (*)(GemmArguments);

#define SLC_ROW(name) \
  {slc_stream_##name##_8, slc_stream_##name##_16, slc_stream_##name##_32, slc_tiled_##name}
// By value type, type of X, and kernel.
constexpr Gemm kGemms[3][2][4] = {{SLC_ROW(f16_half), SLC_ROW(f16_float)},
                                  {SLC_ROW(i8_half), SLC_ROW(i8_float)},
                                  {SLC_ROW(i4_half), SLC_ROW(i4_float)}};

int NthStream(int rows) { return rows == 8 ? 0 : rows == 16 ? 1 : 2; }

}  // namespace

// Y by the kernel that the host would launch. Pointers as in GemmArguments.
SLC_TEST_API void slc_emulate_gemm(int value_type, int float_x, int tiled, unsigned seed,
                                   const GemmArguments* in) {
  const Grid grid = GemmGridOf(value_type, in->S.n, in->m, tiled != 0);
  const int nth = tiled != 0 ? 3 : NthStream(StreamRows(in->m));
  const Gemm kernel = kGemms[value_type - 1][float_x][nth];
  emulated::Launch(grid.x, grid.y, grid.threads, grid.shared_bytes, seed, [&] { kernel(*in); });
}

SLC_TEST_API void slc_emulate_down(int float_x, unsigned seed, const DownArguments* in) {
  const Grid grid = DownGrid(in->ranks, in->m);
  emulated::Launch(grid.x, grid.y, grid.threads, 0, seed,
                   [&] { float_x != 0 ? slc_down_float(*in) : slc_down_half(*in); });
}

SLC_TEST_API void slc_emulate_up(int float_x, unsigned seed, const UpArguments* in) {
  const Grid grid = UpGrid(in->n, in->m);
  emulated::Launch(grid.x, grid.y, grid.threads, 0, seed,
                   [&] { float_x != 0 ? slc_up_float(*in) : slc_up_half(*in); });
}

SLC_TEST_API void slc_emulate_check(const CheckArguments* in) {
  const Grid grid = CheckGrid(in->S.tiles * in->S.blocks);
  emulated::Launch(grid.x, 1, grid.threads, 0, 0, [&] { slc_check(*in); });
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
  emulated::Launch(1, 1, 32, 0, 0, [&] {
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
