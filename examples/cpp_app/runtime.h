// onnxruntime as a library that is opened while the program runs: one binary for every release.
#ifndef CPP_APP_RUNTIME_H_
#define CPP_APP_RUNTIME_H_

#ifdef CPP_APP_ORT_HEADER
#include <onnxruntime_c_api.h>
#else
#include "ort_subset.h"
#endif

#include <memory>
#include <stdexcept>
#include <string>

// What the user is told, in one sentence.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Something of onnxruntime's that is released with its owner.
template <typename T>
using Owned = std::unique_ptr<T, void (*)(T*)>;

class Runtime {
 public:
  // Opens libonnxruntime.so. An empty path: the one that the dynamic linker finds.
  explicit Runtime(const std::string& path);

  const OrtApi* operator->() const { return api_; }
  const std::string& version() const { return version_; }

  // Throws what a status says and releases it; null is success.
  void Check(OrtStatus* status) const;

  // What `create(&out)` made, released by `release`.
  template <typename T, typename Create>
  Owned<T> Make(void (*release)(T*), Create create) const {
    T* made = nullptr;
    Check(create(&made));
    return Owned<T>(made, release);
  }

 private:
  const OrtApi* api_ = nullptr;
  std::string version_;
};

#endif  // CPP_APP_RUNTIME_H_
