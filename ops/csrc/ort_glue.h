// Between onnxruntime's C calls and our C++: statuses become exceptions inside, exceptions become
// statuses at the border, and nothing that onnxruntime lends us is kept or lost.
#ifndef SLC_ORT_GLUE_H_
#define SLC_ORT_GLUE_H_

#include <cstdint>
#include <exception>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "ort_abi.h"
#include "parallel.h"
#include "scratch.h"

namespace slc {

// A failure that becomes an OrtStatus.
class OpError : public std::runtime_error {
 public:
  explicit OpError(const std::string& message, OrtErrorCode code = kOrtInvalidArgument)
      : std::runtime_error(message), code_(code) {}
  OrtErrorCode code() const { return code_; }

 private:
  OrtErrorCode code_;
};

// Throws when `status` is an error; releases it either way.
void Check(const OrtApi& api, OrtStatus* status);

// Runs `body`, a callable; whatever it throws comes back as a status.
template <class Body>
OrtStatus* Guard(const OrtApi& api, const Body& body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const OpError& error) {
    return api.CreateStatus(error.code(), error.what());
  } catch (const std::bad_alloc&) {
    return api.CreateStatus(kOrtFail, "ai.slc: out of memory");
  } catch (const std::exception& error) {
    return api.CreateStatus(kOrtFail, error.what());
  } catch (...) {
    return api.CreateStatus(kOrtFail, "ai.slc: unknown error");
  }
}

struct Tensor {
  OrtElementType type = kOrtUndefined;
  std::vector<int64_t> dims;
  void* data = nullptr;
  bool present = false;  // false: an optional input that the node leaves out

  int64_t elements() const;
  std::string Describe() const;  // "float32 [2, 3]"
};

Tensor ReadTensor(const OrtApi& api, const OrtValue* value);
Tensor ReadInput(const OrtApi& api, const OrtKernelContext* context, size_t index);
size_t InputCount(const OrtApi& api, const OrtKernelContext* context);
void* MakeOutput(const OrtApi& api, OrtKernelContext* context, const std::vector<int64_t>& dims);
int64_t IntAttribute(const OrtApi& api, const OrtKernelInfo* info, const char* name);
// `fallback` when the node does not give the attribute.
int64_t IntAttribute(const OrtApi& api, const OrtKernelInfo* info, const char* name,
                     int64_t fallback);

// Throws OpError "<op>: <what>: got <tensor>, wanted <wanted>".
[[noreturn]] void Refuse(const char* op, const char* what, const std::string& got,
                         const std::string& wanted);

// The session's intra-op threads. The returned value borrows `threads`.
struct SessionThreads {
  const OrtApi* api;
  const OrtKernelContext* context;
};
Parallel ParallelOf(SessionThreads* threads);

void HalvesToFloats(const void* halves, int64_t count, float* out);
void FloatsToHalves(const float* floats, int64_t count, void* out);

}  // namespace slc

#endif  // SLC_ORT_GLUE_H_
