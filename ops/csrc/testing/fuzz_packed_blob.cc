// Feeds damaged blobs to the parser and runs every kernel on those it accepts. Built with
// sanitizers, it shows that no blob makes a kernel read out of bounds.
//
//   fuzz_packed_blob ROUNDS SEED FILE...      prints how many were refused and accepted
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

#include "../bitmap_sparse_gemm/activations.h"
#include "../bitmap_sparse_gemm/bitmap_sparse_gemm.h"

namespace {

using Blob = std::vector<uint8_t>;

// With a fresh checksum, so that the checks behind it are reached.
void Resign(Blob* blob) {
  if (blob->size() < 64) return;
  uint64_t values_offset = 0;
  std::memcpy(&values_offset, blob->data() + 40, 8);
  if (values_offset < 64 || values_offset > blob->size()) return;
  uint32_t crc = slc::Crc32(0, blob->data(), 60);
  crc = slc::Crc32(crc, blob->data() + 64, values_offset - 64);
  std::memcpy(blob->data() + 60, &crc, 4);
}

// Some bytes changed, most often in the header and the sections after it; sometimes cut short.
Blob Damage(const Blob& good, std::mt19937_64* random) {
  Blob blob = good;
  const auto below = [random](size_t limit) { return static_cast<size_t>((*random)() % limit); };
  const size_t changes = below(4);
  for (size_t i = 0; i < changes; ++i) {
    const size_t at = below(3) == 0 ? below(blob.size()) : below(std::min<size_t>(blob.size(), 96));
    blob[at] = below(2) == 0 ? static_cast<uint8_t>(blob[at] ^ (1u << below(8)))
                             : static_cast<uint8_t>((*random)());
  }
  if (below(8) == 0) blob.resize(below(blob.size() + 1));
  if (below(4) != 0) Resign(&blob);
  return blob;
}

void RunSerially(void*, slc::Parallel::Task task, size_t count, void* data) {
  for (size_t i = 0; i < count; ++i) task(data, i);
}

void RunKernels(const slc::PackedView& view) {
  if (view.n > 4096 || view.k > 65536) return;
  constexpr int64_t kRows = 5;
  const std::vector<float> x(static_cast<size_t>(kRows * view.k), 0.5f);
  std::vector<float> y(static_cast<size_t>(kRows * view.n));
  int count = 0;
  const slc::SparseKernel* kernels = slc::SparseKernels(&count);
  const slc::Isa isa = slc::DetectIsa();
  for (int i = 0; i < count; ++i) {
    if (kernels[i].stored != slc::StoredOf(view) || kernels[i].isa > isa) continue;
    const int64_t m = kernels[i].kind == slc::Kind::kGemv ? 2 : kRows;
    const slc::PackedActivations packed({x.data(), false, m, view.k}, kernels[i].order, isa,
                                        {RunSerially, nullptr});
    kernels[i].run({&view, packed.view(), m, 0, view.n, nullptr, y.data(), view.n});
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) return 2;
  const int rounds = std::atoi(argv[1]);
  std::mt19937_64 random(static_cast<uint64_t>(std::atoll(argv[2])));
  long refused = 0, accepted = 0;
  for (int file = 3; file < argc; ++file) {
    std::ifstream in(argv[file], std::ios::binary);
    const Blob good((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
    if (good.size() < 64) return 2;
    for (int round = 0; round < rounds; ++round) {
      // A fresh allocation of the exact size: one byte too far is seen.
      const Blob blob = round == 0 ? good : Damage(good, &random);
      slc::PackedView view;
      std::string error;
      if (slc::ParsePackedBlob(blob.data(), blob.size(), &view, &error)) {
        RunKernels(view);
        ++accepted;
      } else {
        ++refused;
      }
    }
  }
  std::printf("refused %ld accepted %ld\n", refused, accepted);
  return 0;
}
