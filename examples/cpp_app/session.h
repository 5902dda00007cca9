// An artifact as a session, and the inputs that a language model asks for.
#ifndef CPP_APP_SESSION_H_
#define CPP_APP_SESSION_H_

#include <string>
#include <vector>

#include "runtime.h"

// An input as the graph declares it; a dimension that it leaves open is negative.
struct Declared {
  std::string name;
  ONNXTensorElementDataType type;
  std::vector<int64_t> dims;
};

// A tensor over memory of our own.
struct Tensor {
  std::string name;
  std::vector<char> bytes;
  Owned<OrtValue> value;
};

// An output in onnxruntime's memory.
struct Output {
  std::string name;
  ONNXTensorElementDataType type;
  std::vector<int64_t> dims;
  const void* data;
  size_t bytes;
  Owned<OrtValue> value;
};

// Bytes of an element; throws for types that no artifact has as input or output.
size_t ElementBytes(ONNXTensorElementDataType type, const std::string& name);

class Session {
 public:
  // Opens ARTIFACT/model.onnx, with ARTIFACT/libslc_ops.so registered if it lies there. Threads: 0
  // leaves the number to onnxruntime.
  Session(const Runtime& runtime, const std::string& artifact, int threads);

  // One sequence of token ids as the graph's inputs: a mask of ones, types of zeros, positions from
  // 0, empty caches.
  std::vector<Tensor> Feeds(const std::vector<int64_t>& ids) const;

  std::vector<Output> Run(const std::vector<Tensor>& feeds) const;

 private:
  Owned<OrtSessionOptions> Options(int threads) const;
  std::string Name(bool input, size_t index) const;
  Declared Input(size_t index) const;
  Tensor MakeTensor(const Declared& input, std::vector<int64_t> dims,
                    std::vector<char> bytes) const;
  int64_t HeadSize(const std::string& input) const;
  Tensor EmptyCache(const Declared& input) const;
  Tensor Feed(const Declared& input, const std::vector<int64_t>& ids) const;
  Output Describe(std::string name, Owned<OrtValue> value) const;

  const Runtime& ort_;
  std::string artifact_;
  Owned<OrtEnv> env_;
  Owned<OrtSession> session_;
  Owned<OrtMemoryInfo> memory_;
  std::vector<Declared> inputs_;
  std::vector<std::string> outputs_;
};

#endif  // CPP_APP_SESSION_H_
