#include <algorithm>
#include <cstring>

#include "kernels.h"

namespace slc {
namespace {

#define SLC_SPARSE_KERNEL(op, stored, level, tile, isa, kind, stored_enum, level_enum, order, \
                          isa_enum)                                                           \
  {"sparse_" #op "_" #stored "_" #level "_" #tile "__" #isa,                                  \
   Kind::kind,                                                                                \
   Stored::stored_enum,                                                                       \
   Level::level_enum,                                                                         \
   Order::order,                                                                              \
   Isa::isa_enum,                                                                             \
   sparse_##op##_##stored##_##level##_##tile##__##isa},
constexpr SparseKernel kKernels[] = {
#include "kernels.inc"
};
#undef SLC_SPARSE_KERNEL

// Below this much work (weights times rows of x) waking a thread costs more than it saves.
constexpr int64_t kSerialWork = 1 << 16;
// The pool's size is unknown: enough tasks for the largest machines we know, each still large
// enough to be worth a wake-up.
constexpr int64_t kTasks = 32;
constexpr int64_t kTaskWork = 1 << 15;
// Of full weights and int8 activations, which go by several times faster.
constexpr int64_t kFullTaskWork = 1 << 17;
// A gemm task takes this many rows of w or a multiple, and at most this many rows of x: both fit
// the panels and register tiles of every kernel.
constexpr int64_t kGemmRows = 32;
constexpr int64_t kGemmM = 264;
constexpr int64_t kTileM = 12;

uint64_t Start(const PackedView& w, int64_t tile) {
  uint64_t start;
  std::memcpy(&start, w.starts + 8 * tile, sizeof start);
  return start;
}

int64_t DivideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Plan {
  const SparseArgs* args;
  SparseKernelFn kernel;
  int64_t units, unit_tiles;  // rows of w are dealt out in units of so many tiles
  int64_t row_parts, m_parts, m_block;
};

// Cost of all tiles before `tile`: a kernel steps through every mask byte, and its values have to
// come from memory. A delta kernel has nothing but its values.
double CostBefore(const PackedView& w, int64_t tile) {
  const double rows = static_cast<double>(std::min(tile * w.tile_rows, w.n));
  const double words = static_cast<double>(w.words);
  return static_cast<double>(Start(w, tile)) +
         (w.encoding == Encoding::kDelta ? 8.0 * rows : 32.0 * rows * words);
}

// The first tile of part `part` of parts of equal cost.
int64_t TileBegin(const Plan& plan, int64_t part) {
  const PackedView& w = *plan.args->w;
  const int64_t tiles = DivideUp(w.n, w.tile_rows);
  if (part == plan.row_parts) return tiles;
  const double goal =
      CostBefore(w, tiles) * static_cast<double>(part) / static_cast<double>(plan.row_parts);
  int64_t low = 0, high = plan.units;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (CostBefore(w, std::min(middle * plan.unit_tiles, tiles)) < goal) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return std::min(low * plan.unit_tiles, tiles);
}

// From row m of x on.
Activations Advance(const Activations& x, int64_t m) {
  Activations result = x;
  if (result.x != nullptr) result.x += m * x.row_stride;
  if (result.q != nullptr) result.q += m * x.row_stride;
  if (result.magnitude != nullptr) result.magnitude += m * x.row_stride;
  if (result.steps != nullptr) result.steps += m * x.step_stride;
  if (result.corrections != nullptr) result.corrections += m * x.correction_stride;
  return result;
}

void RunTask(void* data, size_t index) {
  const Plan& plan = *static_cast<const Plan*>(data);
  const PackedView& w = *plan.args->w;
  const int64_t row_part = static_cast<int64_t>(index) / plan.m_parts;
  const int64_t m_begin = static_cast<int64_t>(index) % plan.m_parts * plan.m_block;
  SparseArgs args = *plan.args;
  args.m = std::min(plan.m_block, args.m - m_begin);
  args.x = Advance(args.x, m_begin);
  args.y += m_begin * args.ldy;
  args.row_begin = TileBegin(plan, row_part) * w.tile_rows;
  args.row_end = std::min(TileBegin(plan, row_part + 1) * w.tile_rows, w.n);
  if (args.row_begin < args.row_end) plan.kernel(args);
}

}  // namespace

const SparseKernel* SparseKernels(int* count) {
  *count = static_cast<int>(sizeof kKernels / sizeof kKernels[0]);
  return kKernels;
}

Stored StoredOf(const PackedView& w) {
  const bool delta = w.encoding == Encoding::kDelta, full = w.encoding == Encoding::kFull;
  switch (w.value_type) {
    case ValueType::kF16:
      return full ? Stored::kFullF16 : delta ? Stored::kDeltaF16 : Stored::kF16;
    case ValueType::kI8:
      return full ? Stored::kFullI8 : delta ? Stored::kDeltaI8 : Stored::kI8;
    case ValueType::kI4:
      break;
  }
  if (full) return Stored::kFullI4;
  return w.layout == Layout::kPlanes ? Stored::kI4Planes : Stored::kI4Rows;
}

const SparseKernel* SelectSparseKernel(int64_t m, Stored stored, Level level, Isa isa) {
  const Kind kind = m <= kGemvRowsMax ? Kind::kGemv : Kind::kGemm;
  const SparseKernel* best = nullptr;
  for (const SparseKernel& kernel : kKernels) {
    if (kernel.kind != kind || kernel.stored != stored || kernel.level != level) continue;
    if (kernel.isa <= isa && (best == nullptr || kernel.isa > best->isa)) best = &kernel;
  }
  return best;
}

void BitmapSparseGemm(const SparseKernel& kernel, const SparseArgs& args,
                      const Parallel& parallel) {
  if (args.m == 0) return;
  const PackedView& w = *args.w;
  const bool gemm = kernel.kind == Kind::kGemm, tiled = kernel.order == Order::kColumns;
  const int64_t work = w.n * w.words * 64 * std::min<int64_t>(args.m, 1 << 20);
  const bool full = w.encoding == Encoding::kFull && kernel.level == Level::kInt8;
  const int64_t task = full ? kFullTaskWork : kTaskWork;
  const int64_t goal = work < kSerialWork ? 1 : std::clamp(work / task, int64_t{1}, kTasks);
  Plan plan{};
  plan.args = &args;
  plan.kernel = kernel.run;
  plan.unit_tiles = gemm ? DivideUp(kGemmRows, w.tile_rows) : 1;
  plan.units = DivideUp(DivideUp(w.n, w.tile_rows), plan.unit_tiles);
  plan.row_parts = std::min(plan.units, goal);
  // Few rows of w: split the rows of x further, so that every thread has work.
  const int64_t m_parts = std::max(DivideUp(args.m, kGemmM), goal / plan.row_parts);
  const int64_t m_tile = tiled ? kColumnRows : kTileM;
  plan.m_block = gemm ? DivideUp(DivideUp(args.m, m_parts), m_tile) * m_tile : args.m;
  plan.m_parts = DivideUp(args.m, plan.m_block);
  const int64_t count = plan.row_parts * plan.m_parts;
  if (goal == 1) {
    for (int64_t i = 0; i < count; ++i) RunTask(&plan, static_cast<size_t>(i));
  } else {
    parallel.run(parallel.context, RunTask, static_cast<size_t>(count), &plan);
  }
}

}  // namespace slc
