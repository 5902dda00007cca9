// Many products on one blob at a time, each split over threads of its own: for ThreadSanitizer.
//
//   run_concurrently FILE...
//
// Prints how many products ran; 1 when a result depends on what ran beside it.
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "../bitmap_sparse_gemm/activations.h"
#include "../concat_adapter/concat_adapter.h"

namespace {

constexpr int kRuns = 4;
constexpr size_t kThreads = 3;

// Task i runs on thread i modulo kThreads.
void RunOnThreads(void*, slc::Parallel::Task task, size_t count, void* data) {
  std::vector<std::thread> threads;
  for (size_t first = 0; first < kThreads; ++first) {
    threads.emplace_back([=] {
      for (size_t i = first; i < count; i += kThreads) task(data, i);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

void RunSerially(void*, slc::Parallel::Task task, size_t count, void* data) {
  for (size_t i = 0; i < count; ++i) task(data, i);
}

// The product and, on its result, an adapter of rank 8.
std::vector<float> Product(const slc::PackedView& view, slc::Level level, int64_t m,
                           const slc::Parallel& parallel) {
  const slc::Isa isa = slc::UsableIsa();
  std::vector<float> x(static_cast<size_t>(m * view.k)), y(static_cast<size_t>(m * view.n));
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 31) - 15.0f;
  const slc::SparseKernel& kernel = *slc::SelectSparseKernel(m, slc::StoredOf(view), level, isa);
  const slc::PackedActivations packed({x.data(), false, m, view.k}, kernel.order, isa, parallel);
  slc::BitmapSparseGemm(kernel, {&view, packed.view(), m, 0, view.n, nullptr, y.data(), view.n},
                        parallel);
  constexpr int64_t kRank = 8;
  const std::vector<float> a(static_cast<size_t>(kRank * view.k), 0.5f);
  const std::vector<float> b(static_cast<size_t>(kRank * view.n), 0.25f);
  std::vector<float> h(static_cast<size_t>(m * kRank));
  const slc::AdapterPart down{a.data(), slc::DenseType::kF32, kRank, 0, nullptr};
  const slc::AdapterPart up{b.data(), slc::DenseType::kF32, kRank, 0, nullptr};
  slc::AdapterDown({&down, 1, x.data(), m, view.k, nullptr, h.data(), kRank}, isa, parallel);
  slc::AdapterUp({&up, 1, h.data(), m, kRank, y.data(), y.data(), view.n}, isa, parallel);
  return y;
}

}  // namespace

int main(int argc, char** argv) {
  int products = 0;
  for (int file = 1; file < argc; ++file) {
    std::ifstream in(argv[file], std::ios::binary);
    const std::vector<char> blob((std::istreambuf_iterator<char>(in)), {});
    slc::PackedView view;
    std::string error;
    if (!slc::ParsePackedBlob(blob.data(), blob.size(), &view, &error)) return 2;
    for (const slc::Level level : {slc::Level::kF32, slc::Level::kInt8}) {
      if (slc::SelectSparseKernel(1, slc::StoredOf(view), level, slc::UsableIsa()) == nullptr) {
        continue;
      }
      std::vector<std::thread> runs;
      std::vector<char> same(kRuns, 0);
      for (int run = 0; run < kRuns; ++run) {
        runs.emplace_back([&, run] {
          const int64_t m = run % 2 == 0 ? 1 : 150;
          const std::vector<float> alone = Product(view, level, m, {RunSerially, nullptr});
          const std::vector<float> split = Product(view, level, m, {RunOnThreads, nullptr});
          same[static_cast<size_t>(run)] =
              std::memcmp(alone.data(), split.data(), alone.size() * sizeof(float)) == 0;
        });
      }
      for (std::thread& run : runs) run.join();
      for (const char equal : same) {
        if (equal == 0) return 1;
        ++products;
      }
    }
  }
  std::printf("products %d\n", products);
  return 0;
}
