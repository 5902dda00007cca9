// A C interface to every kernel of the two kernels.inc, for tests and benchmarks. Not part of the
// released library.
#include <cstring>
#include <string>

#include "../bitmap_sparse_gemm/activations.h"
#include "../bitmap_sparse_gemm/bitmap_sparse_gemm.h"
#include "../concat_adapter/concat_adapter.h"
#include "../f16.h"

#define SLC_TEST_API extern "C" __attribute__((visibility("default")))

namespace {

const slc::SparseKernel* FindSparse(const char* name) {
  int count = 0;
  const slc::SparseKernel* kernels = slc::SparseKernels(&count);
  for (int i = 0; i < count; ++i) {
    if (std::strcmp(kernels[i].name, name) == 0) return &kernels[i];
  }
  return nullptr;
}

const slc::DenseKernel* FindDense(const char* name) {
  int count = 0;
  const slc::DenseKernel* kernels = slc::DenseKernels(&count);
  for (int i = 0; i < count; ++i) {
    if (std::strcmp(kernels[i].name, name) == 0) return &kernels[i];
  }
  return nullptr;
}

const slc::Parallel kSerial = {[](void*, slc::Parallel::Task task, size_t count, void* data) {
                                 for (size_t i = 0; i < count; ++i) task(data, i);
                               },
                               nullptr};

}  // namespace

// The index-th kernel's name, sparse ones first; null past the end.
SLC_TEST_API const char* slc_kernel_name(int index) {
  int sparse = 0, dense = 0;
  const slc::SparseKernel* sparse_kernels = slc::SparseKernels(&sparse);
  const slc::DenseKernel* dense_kernels = slc::DenseKernels(&dense);
  if (index < sparse) return sparse_kernels[index].name;
  return index < sparse + dense ? dense_kernels[index - sparse].name : nullptr;
}

// 1 when this machine can run the kernel.
SLC_TEST_API int slc_kernel_runs_here(const char* name) {
  const slc::SparseKernel* sparse = FindSparse(name);
  const slc::DenseKernel* dense = FindDense(name);
  const slc::Isa isa = slc::DetectIsa();
  return (sparse != nullptr && sparse->isa <= isa) || (dense != nullptr && dense->isa <= isa);
}

// Null when the blob is good, else the reason, valid until the next call on this thread.
SLC_TEST_API const char* slc_check_blob(const void* blob, uint64_t bytes) {
  static thread_local std::string error;
  slc::PackedView view;
  return slc::ParsePackedBlob(blob, bytes, &view, &error) ? nullptr : error.c_str();
}

// Parses a blob for slc_run_sparse, so that a benchmark pays for the checks once; null when bad.
SLC_TEST_API void* slc_open_blob(const void* blob, uint64_t bytes) {
  std::string error;
  auto* view = new slc::PackedView;
  if (slc::ParsePackedBlob(blob, bytes, view, &error)) return view;
  delete view;
  return nullptr;
}

SLC_TEST_API void slc_close_blob(void* view) { delete static_cast<slc::PackedView*>(view); }

// x: float32 [m, K], put in the order that the kernel wants; null for an unknown kernel. Borrows x.
SLC_TEST_API void* slc_pack_activations(const char* name, const void* view, const float* x,
                                        int64_t m) {
  const slc::SparseKernel* kernel = FindSparse(name);
  if (kernel == nullptr) return nullptr;
  const auto& w = *static_cast<const slc::PackedView*>(view);
  return new slc::PackedActivations({x, false, m, w.k}, kernel->order, slc::DetectIsa(), kSerial);
}

SLC_TEST_API void slc_free_activations(void* packed) {
  delete static_cast<slc::PackedActivations*>(packed);
}

// y: float32 [m, N]. Rows row_begin ... row_end of w.
SLC_TEST_API int slc_run_sparse(const char* name, const void* view, const void* packed, int64_t m,
                                int64_t row_begin, int64_t row_end, const float* bias, float* y) {
  const slc::SparseKernel* kernel = FindSparse(name);
  if (kernel == nullptr) return 1;
  const auto& w = *static_cast<const slc::PackedView*>(view);
  const auto& x = static_cast<const slc::PackedActivations*>(packed)->view();
  kernel->run({&w, x, m, row_begin, row_end, bias, y, w.n});
  return 0;
}

// w: [rows, k] of the kernel's type; x: float32 [m, k]; y: float32 [m, rows].
SLC_TEST_API int slc_run_dense(const char* name, const void* w, int64_t rows, int64_t k,
                               const float* x, int64_t m, float* y) {
  const slc::DenseKernel* kernel = FindDense(name);
  if (kernel == nullptr) return 1;
  kernel->run({w, rows, k, x, m, k, y, rows});
  return 0;
}

SLC_TEST_API float slc_half_to_float(uint16_t half) { return slc::HalfToFloat(half); }
SLC_TEST_API uint16_t slc_float_to_half(float value) { return slc::FloatToHalf(value); }
