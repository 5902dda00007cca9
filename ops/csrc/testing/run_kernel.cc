// Runs kernels by name on data in files, for machines whose programs run here under emulation.
//
//   run_kernel                           prints the names of the kernels that run on this machine
//   run_kernel CASES RESULTS [REPEATS]   runs every case and writes the results one after another
//
// A line of CASES is one of
//   sparse KERNEL M BLOB X BIAS          X: float32 [M, K]; BIAS: float32 [N], or - for none
//   dense KERNEL M ROWS K W X            W: [ROWS, K] of the kernel's type
// and adds float32 [M, N] or [M, ROWS] to RESULTS. REPEATS runs each kernel so many times more:
// instructions counted with and without tell what one run takes.
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "../bitmap_sparse_gemm/activations.h"
#include "../bitmap_sparse_gemm/bitmap_sparse_gemm.h"
#include "../concat_adapter/concat_adapter.h"

namespace {

using Floats = std::vector<float>;

void RunSerially(void*, slc::Parallel::Task task, size_t count, void* data) {
  for (size_t i = 0; i < count; ++i) task(data, i);
}

std::vector<char> ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + path);
  return std::vector<char>(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
}

Floats ReadFloats(const std::string& path, int64_t count) {
  const std::vector<char> bytes = ReadFile(path);
  if (bytes.size() != static_cast<size_t>(count) * sizeof(float)) {
    throw std::runtime_error(path + ": got " + std::to_string(bytes.size()) + " bytes, wanted " +
                             std::to_string(count) + " float32");
  }
  const auto* floats = reinterpret_cast<const float*>(bytes.data());
  return Floats(floats, floats + count);
}

// The kernel of that name among `count`, if this machine runs it.
template <class Kernel>
const Kernel& Find(const Kernel* kernels, int count, const std::string& name) {
  for (int i = 0; i < count; ++i) {
    if (kernels[i].name == name && kernels[i].isa <= slc::DetectIsa()) return kernels[i];
  }
  throw std::runtime_error("no kernel that runs here is called " + name);
}

Floats RunSparse(const std::string& name, int64_t m, std::istream& line, int repeats) {
  std::string blob_path, x_path, bias_path;
  line >> blob_path >> x_path >> bias_path;
  int count = 0;
  const slc::SparseKernel* kernels = slc::SparseKernels(&count);
  const slc::SparseKernel& kernel = Find(kernels, count, name);
  const std::vector<char> blob = ReadFile(blob_path);
  slc::PackedView w;
  std::string error;
  if (!slc::ParsePackedBlob(blob.data(), blob.size(), &w, &error)) throw std::runtime_error(error);
  const Floats x = ReadFloats(x_path, m * w.k);
  const Floats bias = bias_path == "-" ? Floats() : ReadFloats(bias_path, w.n);
  const slc::PackedActivations packed({x.data(), false, m, w.k}, kernel.order, slc::DetectIsa(),
                                      {RunSerially, nullptr});
  Floats y(static_cast<size_t>(m * w.n));
  for (int i = 0; i <= repeats; ++i) {
    kernel.run({&w, packed.view(), m, 0, w.n, bias.empty() ? nullptr : bias.data(), y.data(), w.n});
  }
  return y;
}

Floats RunDense(const std::string& name, int64_t m, std::istream& line, int repeats) {
  int64_t rows = 0, k = 0;
  std::string w_path, x_path;
  line >> rows >> k >> w_path >> x_path;
  int count = 0;
  const slc::DenseKernel* kernels = slc::DenseKernels(&count);
  const slc::DenseKernel& kernel = Find(kernels, count, name);
  const std::vector<char> w = ReadFile(w_path);
  if (w.size() != static_cast<size_t>(rows * k * slc::ElementBytes(kernel.type))) {
    throw std::runtime_error(w_path + ": got " + std::to_string(w.size()) + " bytes");
  }
  const Floats x = ReadFloats(x_path, m * k);
  Floats y(static_cast<size_t>(m * rows));
  for (int i = 0; i <= repeats; ++i) {
    kernel.run({w.data(), rows, k, x.data(), m, k, y.data(), rows});
  }
  return y;
}

void PrintNames() {
  const slc::Isa isa = slc::DetectIsa();
  int count = 0;
  const slc::SparseKernel* sparse = slc::SparseKernels(&count);
  for (int i = 0; i < count; ++i) {
    if (sparse[i].isa <= isa) std::cout << sparse[i].name << '\n';
  }
  const slc::DenseKernel* dense = slc::DenseKernels(&count);
  for (int i = 0; i < count; ++i) {
    if (dense[i].isa <= isa) std::cout << dense[i].name << '\n';
  }
}

void RunCases(const char* cases, const char* results, int repeats) {
  std::ifstream in(cases);
  std::ofstream out(results, std::ios::binary);
  std::string text;
  while (std::getline(in, text)) {
    std::istringstream line(text);
    std::string op, name;
    int64_t m = 0;
    if (!(line >> op >> name >> m)) throw std::runtime_error("not a case: " + text);
    const Floats y =
        op == "sparse" ? RunSparse(name, m, line, repeats) : RunDense(name, m, line, repeats);
    out.write(reinterpret_cast<const char*>(y.data()),
              static_cast<std::streamsize>(y.size() * sizeof(float)));
  }
  if (!out) throw std::runtime_error(std::string("cannot write ") + results);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 1) {
    PrintNames();
    return 0;
  }
  if (argc < 3 || argc > 4) return 2;
  try {
    RunCases(argv[1], argv[2], argc == 4 ? std::atoi(argv[3]) : 0);
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
  return 0;
}
