#include <algorithm>
#include <cstring>

#include "kernels.h"

namespace slc {
namespace {

#define SLC_SPARSE_KERNEL(op, type, tile, isa, kind, value_enum, isa_enum)               \
  {"sparse_" #op "_" #type "_" #tile "__" #isa, SparseKind::kind, ValueType::value_enum, \
   Isa::isa_enum, sparse_##op##_##type##_##tile##__##isa},
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
uint64_t Start(const PackedView& w, int64_t tile) {
  uint64_t start;
  std::memcpy(&start, w.starts + 8 * tile, sizeof start);
  return start;
}

int64_t DivideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Plan {
  const SparseArgs* args;
  SparseKernelFn kernel;
  int64_t tiles, row_parts, m_parts, m_block;
};

// Cost of all tiles before `tile`: a kernel steps through every mask byte, and its values have to
// come from memory.
double CostBefore(const PackedView& w, int64_t tile) {
  const double rows = static_cast<double>(std::min(tile * w.tile_rows, w.n));
  return static_cast<double>(Start(w, tile)) + 32.0 * rows * static_cast<double>(w.words);
}

// The first tile of part `part` of `parts` parts of equal cost.
int64_t TileBegin(const PackedView& w, int64_t tiles, int64_t part, int64_t parts) {
  if (part == parts) return tiles;
  const double goal = CostBefore(w, tiles) * static_cast<double>(part) / static_cast<double>(parts);
  int64_t low = 0, high = tiles;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (CostBefore(w, middle) < goal) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

void RunTask(void* data, size_t index) {
  const Plan& plan = *static_cast<const Plan*>(data);
  const PackedView& w = *plan.args->w;
  const int64_t row_part = static_cast<int64_t>(index) / plan.m_parts;
  const int64_t m_begin = static_cast<int64_t>(index) % plan.m_parts * plan.m_block;
  SparseArgs args = *plan.args;
  args.m = std::min(plan.m_block, args.m - m_begin);
  args.x += m_begin * args.ldx;
  args.y += m_begin * args.ldy;
  args.row_begin = TileBegin(w, plan.tiles, row_part, plan.row_parts) * w.tile_rows;
  args.row_end = TileBegin(w, plan.tiles, row_part + 1, plan.row_parts) * w.tile_rows;
  args.row_end = std::min(args.row_end, w.n);
  if (args.row_begin < args.row_end) plan.kernel(args);
}

}  // namespace

const SparseKernel* SparseKernels(int* count) {
  *count = static_cast<int>(sizeof kKernels / sizeof kKernels[0]);
  return kKernels;
}

SparseKernelFn SelectSparseKernel(int64_t m, ValueType value_type, Isa isa) {
  const SparseKind kind = m <= kGemvRowsMax ? SparseKind::kGemv : SparseKind::kGemm;
  const SparseKernel* best = nullptr;
  for (const SparseKernel& kernel : kKernels) {
    if (kernel.kind != kind || kernel.value_type != value_type || kernel.isa > isa) continue;
    if (best == nullptr || kernel.isa > best->isa) best = &kernel;
  }
  return best->run;
}

void BitmapSparseGemm(const SparseArgs& args, Isa isa, const Parallel& parallel) {
  if (args.m == 0) return;
  const PackedView& w = *args.w;
  const int64_t work = w.n * w.words * 64 * std::min<int64_t>(args.m, 1 << 20);
  const int64_t goal = work < kSerialWork ? 1 : std::clamp(work / kTaskWork, int64_t{1}, kTasks);
  Plan plan{&args, SelectSparseKernel(args.m, w.value_type, isa), 0, 0, 0, 0};
  plan.tiles = DivideUp(w.n, w.tile_rows);
  plan.row_parts = std::min(plan.tiles, goal);
  // Few rows of w: split the rows of x further, so that every thread has work.
  const int64_t m_parts = std::max(DivideUp(args.m, kBlockRows), goal / plan.row_parts);
  plan.m_block = args.m <= kGemvRowsMax ? args.m : DivideUp(DivideUp(args.m, m_parts), 3) * 3;
  plan.m_parts = DivideUp(args.m, plan.m_block);
  const int64_t count = plan.row_parts * plan.m_parts;
  if (goal == 1) {
    for (int64_t i = 0; i < count; ++i) RunTask(&plan, static_cast<size_t>(i));
  } else {
    parallel.run(parallel.context, RunTask, static_cast<size_t>(count), &plan);
  }
}

}  // namespace slc
