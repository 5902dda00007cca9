#include <algorithm>

#include "kernels.h"

namespace slc {
namespace {

#define SLC_DENSE_KERNEL(type, tile, isa, type_enum, isa_enum)                    \
  {"adapter_dot_" #type "_" #tile "__" #isa, DenseType::type_enum, Isa::isa_enum, \
   adapter_dot_##type##_##tile##__##isa},
constexpr DenseKernel kKernels[] = {
#include "kernels.inc"
};
#undef SLC_DENSE_KERNEL

// Below this many multiplications waking a thread costs more than it saves.
constexpr int64_t kSerialWork = 1 << 15;
constexpr int64_t kTileN = 64;  // Up works in tiles of kTileM x kTileN partial sums on the stack
constexpr int64_t kTileM = 12;
constexpr int64_t kDownRows = 8;  // rows of A a task takes
constexpr int64_t kDownM = 48;    // rows of x a task takes

int64_t DivideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }

void Run(const Parallel& parallel, int64_t work, Parallel::Task task, int64_t count, void* data) {
  if (work < kSerialWork) {
    for (int64_t i = 0; i < count; ++i) task(data, static_cast<size_t>(i));
  } else {
    parallel.run(parallel.context, task, static_cast<size_t>(count), data);
  }
}

struct DownPlan {
  const DownArgs* args;
  Isa isa;
  int64_t m_parts;
};

// Rows [begin, end) of the concatenated A, for rows [m_begin, m_end) of x, in one adapter.
void DownPart(const DownPlan& plan, const AdapterPart& part, int64_t begin, int64_t end,
              int64_t m_begin, int64_t m_end) {
  const DownArgs& a = *plan.args;
  const int64_t row = begin - part.first;
  const auto* w = static_cast<const uint8_t*>(part.data) + row * a.k * ElementBytes(part.type);
  float* h = a.h + m_begin * a.rank_sum + begin;
  SelectDenseKernel(part.type, plan.isa)(
      {w, end - begin, a.k, a.x + m_begin * a.k, m_end - m_begin, a.k, h, a.rank_sum});
  if (part.scale == nullptr && a.gate == nullptr) return;
  for (int64_t i = m_begin; i < m_end; ++i, h += a.rank_sum) {
    for (int64_t r = 0; r < end - begin; ++r) {
      if (part.scale != nullptr) h[r] *= part.scale[row + r];
      if (a.gate != nullptr) h[r] *= a.gate[begin + r];
    }
  }
}

void DownTask(void* data, size_t index) {
  const DownPlan& plan = *static_cast<const DownPlan*>(data);
  const DownArgs& a = *plan.args;
  const int64_t m_begin = static_cast<int64_t>(index) % plan.m_parts * kDownM;
  const int64_t begin = static_cast<int64_t>(index) / plan.m_parts * kDownRows;
  const int64_t end = std::min(begin + kDownRows, a.rank_sum);
  for (int64_t p = 0; p < a.count; ++p) {
    const AdapterPart& part = a.parts[p];
    const int64_t part_begin = std::max(begin, part.first);
    const int64_t part_end = std::min(end, part.first + part.rank);
    if (part_begin >= part_end) continue;
    DownPart(plan, part, part_begin, part_end, m_begin, std::min(m_begin + kDownM, a.m));
  }
}

struct UpPlan {
  const UpArgs* args;
  Isa isa;
  int64_t n_parts;
};

// y tile += scale * (h · Bᵀ) of one adapter.
void UpPart(const UpPlan& plan, const AdapterPart& part, int64_t m_begin, int64_t m,
            int64_t n_begin, int64_t n) {
  const UpArgs& a = *plan.args;
  float sums[kTileM * kTileN];
  const auto* w =
      static_cast<const uint8_t*>(part.data) + n_begin * part.rank * ElementBytes(part.type);
  SelectDenseKernel(part.type, plan.isa)(
      {w, n, part.rank, a.h + m_begin * a.ldh + part.first, m, a.ldh, sums, kTileN});
  for (int64_t i = 0; i < m; ++i) {
    float* y = a.y + (m_begin + i) * a.n + n_begin;
    for (int64_t j = 0; j < n; ++j) {
      const float scale = part.scale == nullptr ? 1.0f : part.scale[n_begin + j];
      y[j] += scale * sums[i * kTileN + j];
    }
  }
}

void UpTask(void* data, size_t index) {
  const UpPlan& plan = *static_cast<const UpPlan*>(data);
  const UpArgs& a = *plan.args;
  const int64_t m_begin = static_cast<int64_t>(index) / plan.n_parts * kTileM;
  const int64_t n_begin = static_cast<int64_t>(index) % plan.n_parts * kTileN;
  const int64_t m = std::min(kTileM, a.m - m_begin);
  const int64_t n = std::min(kTileN, a.n - n_begin);
  if (a.y != a.y0) {
    for (int64_t i = m_begin; i < m_begin + m; ++i) {
      std::copy_n(a.y0 + i * a.n + n_begin, n, a.y + i * a.n + n_begin);
    }
  }
  for (int64_t p = 0; p < a.count; ++p) {
    if (a.parts[p].rank > 0) UpPart(plan, a.parts[p], m_begin, m, n_begin, n);
  }
}

}  // namespace

const DenseKernel* DenseKernels(int* count) {
  *count = static_cast<int>(sizeof kKernels / sizeof kKernels[0]);
  return kKernels;
}

DenseKernelFn SelectDenseKernel(DenseType type, Isa isa) {
  const DenseKernel* best = nullptr;
  for (const DenseKernel& kernel : kKernels) {
    if (kernel.type != type || kernel.isa > isa) continue;
    if (best == nullptr || kernel.isa > best->isa) best = &kernel;
  }
  return best->run;
}

void AdapterDown(const DownArgs& args, Isa isa, const Parallel& parallel) {
  if (args.m == 0 || args.rank_sum == 0) return;
  DownPlan plan{&args, isa, DivideUp(args.m, kDownM)};
  const int64_t tasks = plan.m_parts * DivideUp(args.rank_sum, kDownRows);
  Run(parallel, args.m * args.rank_sum * args.k, DownTask, tasks, &plan);
}

void AdapterUp(const UpArgs& args, Isa isa, const Parallel& parallel) {
  if (args.m == 0 || args.n == 0) return;
  UpPlan plan{&args, isa, DivideUp(args.n, kTileN)};
  int64_t rank_sum = 1;  // copying y counts as one
  for (int64_t p = 0; p < args.count; ++p) rank_sum += args.parts[p].rank;
  const int64_t tasks = plan.n_parts * DivideUp(args.m, kTileM);
  Run(parallel, args.m * args.n * rank_sum, UpTask, tasks, &plan);
}

}  // namespace slc
