#include "session.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <numeric>

namespace {

constexpr char kCachePrefix[] = "past_key_values.";

size_t Elements(const std::vector<int64_t>& dims) {
  return std::accumulate(dims.begin(), dims.end(), size_t{1}, std::multiplies<>());
}

void ReadTypeAndShape(const Runtime& ort, const OrtTensorTypeAndShapeInfo* info,
                      ONNXTensorElementDataType* type, std::vector<int64_t>* dims) {
  ort.Check(ort->GetTensorElementType(info, type));
  size_t rank = 0;
  ort.Check(ort->GetDimensionsCount(info, &rank));
  dims->resize(rank);
  ort.Check(ort->GetDimensions(info, dims->data(), rank));
}

template <typename T>
std::vector<char> Bytes(const std::vector<int64_t>& values) {
  const std::vector<T> typed(values.begin(), values.end());
  const auto* first = reinterpret_cast<const char*>(typed.data());
  return std::vector<char>(first, first + typed.size() * sizeof(T));
}

// The values of an input with one number a token; nothing for another name.
std::vector<int64_t> TokenValues(const std::string& name, const std::vector<int64_t>& ids) {
  if (name == "input_ids") return ids;
  if (name == "attention_mask") return std::vector<int64_t>(ids.size(), 1);
  if (name == "token_type_ids") return std::vector<int64_t>(ids.size(), 0);
  std::vector<int64_t> positions(name == "position_ids" ? ids.size() : 0);
  std::iota(positions.begin(), positions.end(), 0);
  return positions;
}

}  // namespace

size_t ElementBytes(ONNXTensorElementDataType type, const std::string& name) {
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16:
      return 2;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32:
      return 4;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64:
      return 8;
    default:
      throw Error(name + " has onnxruntime's element type " + std::to_string(type) +
                  "; this program knows float32, float16, int32 and int64");
  }
}

Session::Session(const Runtime& runtime, const std::string& artifact, int threads)
    : ort_(runtime),
      artifact_(artifact),
      env_(ort_.Make(ort_->ReleaseEnv,
                     [&](OrtEnv** out) {
                       return ort_->CreateEnv(ORT_LOGGING_LEVEL_WARNING, "cpp_app", out);
                     })),
      session_(ort_.Make(ort_->ReleaseSession,
                         [&](OrtSession** out) {
                           const auto options = Options(threads);
                           const std::string model = artifact_ + "/model.onnx";
                           return ort_->CreateSession(env_.get(), model.c_str(), options.get(),
                                                      out);
                         })),
      memory_(ort_.Make(ort_->ReleaseMemoryInfo, [&](OrtMemoryInfo** out) {
        return ort_->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, out);
      })) {
  size_t count = 0;
  ort_.Check(ort_->SessionGetInputCount(session_.get(), &count));
  for (size_t i = 0; i < count; ++i) inputs_.push_back(Input(i));
  ort_.Check(ort_->SessionGetOutputCount(session_.get(), &count));
  for (size_t i = 0; i < count; ++i) outputs_.push_back(Name(/*input=*/false, i));
}

Owned<OrtSessionOptions> Session::Options(int threads) const {
  auto options = ort_.Make(ort_->ReleaseSessionOptions, ort_->CreateSessionOptions);
  if (threads > 0) ort_.Check(ort_->SetIntraOpNumThreads(options.get(), threads));
  const std::string library = artifact_ + "/libslc_ops.so";
  if (std::filesystem::exists(library)) {
    // Never closed: its operators must outlive the session.
    void* handle = nullptr;
    ort_.Check(ort_->RegisterCustomOpsLibrary(options.get(), library.c_str(), &handle));
  }
  return options;
}

std::string Session::Name(bool input, size_t index) const {
  OrtAllocator* allocator = nullptr;
  ort_.Check(ort_->GetAllocatorWithDefaultOptions(&allocator));
  char* text = nullptr;
  ort_.Check(input ? ort_->SessionGetInputName(session_.get(), index, allocator, &text)
                   : ort_->SessionGetOutputName(session_.get(), index, allocator, &text));
  const std::string name = text;
  ort_.Check(ort_->AllocatorFree(allocator, text));
  return name;
}

Declared Session::Input(size_t index) const {
  const auto type_info = ort_.Make(ort_->ReleaseTypeInfo, [&](OrtTypeInfo** out) {
    return ort_->SessionGetInputTypeInfo(session_.get(), index, out);
  });
  const OrtTensorTypeAndShapeInfo* info = nullptr;
  ort_.Check(ort_->CastTypeInfoToTensorInfo(type_info.get(), &info));
  Declared input{Name(/*input=*/true, index), ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED, {}};
  if (info == nullptr) throw Error("the graph's input " + input.name + " is not a tensor");
  ReadTypeAndShape(ort_, info, &input.type, &input.dims);
  return input;
}

Tensor Session::MakeTensor(const Declared& input, std::vector<int64_t> dims,
                           std::vector<char> bytes) const {
  bytes.reserve(1);  // an empty tensor's data must not be null
  auto value = ort_.Make(ort_->ReleaseValue, [&](OrtValue** out) {
    return ort_->CreateTensorWithDataAsOrtValue(memory_.get(), bytes.data(), bytes.size(),
                                                dims.data(), dims.size(), input.type, out);
  });
  return Tensor{input.name, std::move(bytes), std::move(value)};
}

int64_t Session::HeadSize(const std::string& input) const {
  // A number in a file whose form is known: no JSON parser for that.
  constexpr char kKey[] = "\"head_size\":";
  std::ifstream file(artifact_ + "/genai_config.json");
  const std::string text(std::istreambuf_iterator<char>(file), {});
  const size_t place = text.find(kKey);
  const int64_t size =
      place == std::string::npos ? 0 : std::atoll(text.c_str() + place + sizeof kKey - 1);
  if (size > 0) return size;
  throw Error("the graph leaves the last dimension of " + input + " open, and " + artifact_ +
              "/genai_config.json has no head_size");
}

Tensor Session::EmptyCache(const Declared& input) const {
  std::vector<int64_t> dims = input.dims;
  if (dims.size() != 4) {
    throw Error(input.name + " has " + std::to_string(dims.size()) +
                " dimensions; this program makes caches of [batch, heads, length, size]");
  }
  if (dims[0] < 0) dims[0] = 1;
  if (dims[2] < 0) dims[2] = 0;
  if (dims[3] < 0) dims[3] = HeadSize(input.name);
  const size_t bytes = Elements(dims) * ElementBytes(input.type, input.name);
  return MakeTensor(input, dims, std::vector<char>(bytes));
}

Tensor Session::Feed(const Declared& input, const std::vector<int64_t>& ids) const {
  if (input.name.rfind(kCachePrefix, 0) == 0) return EmptyCache(input);
  const std::vector<int64_t> values = TokenValues(input.name, ids);
  const bool wide = input.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
  if (values.empty() || !(wide || input.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32)) {
    throw Error("the graph wants an input " + input.name + " of onnxruntime's element type " +
                std::to_string(input.type) +
                "; this program makes input_ids, attention_mask, token_type_ids and position_ids "
                "in int64 or int32, and empty past_key_values");
  }
  return MakeTensor(input, {1, static_cast<int64_t>(ids.size())},
                    wide ? Bytes<int64_t>(values) : Bytes<int32_t>(values));
}

std::vector<Tensor> Session::Feeds(const std::vector<int64_t>& ids) const {
  std::vector<Tensor> feeds;
  for (const Declared& input : inputs_) feeds.push_back(Feed(input, ids));
  return feeds;
}

Output Session::Describe(std::string name, Owned<OrtValue> value) const {
  const auto info =
      ort_.Make(ort_->ReleaseTensorTypeAndShapeInfo, [&](OrtTensorTypeAndShapeInfo** out) {
        return ort_->GetTensorTypeAndShape(value.get(), out);
      });
  Output output{std::move(name), ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED, {}, nullptr, 0,
                std::move(value)};
  ReadTypeAndShape(ort_, info.get(), &output.type, &output.dims);
  void* data = nullptr;
  ort_.Check(ort_->GetTensorMutableData(output.value.get(), &data));
  output.data = data;
  output.bytes = Elements(output.dims) * ElementBytes(output.type, output.name);
  return output;
}

std::vector<Output> Session::Run(const std::vector<Tensor>& feeds) const {
  std::vector<const char*> input_names, output_names;
  std::vector<const OrtValue*> inputs;
  for (const Tensor& feed : feeds) {
    input_names.push_back(feed.name.c_str());
    inputs.push_back(feed.value.get());
  }
  for (const std::string& name : outputs_) output_names.push_back(name.c_str());
  std::vector<OrtValue*> raw(outputs_.size(), nullptr);
  ort_.Check(ort_->Run(session_.get(), nullptr, input_names.data(), inputs.data(), inputs.size(),
                       output_names.data(), output_names.size(), raw.data()));
  std::vector<Owned<OrtValue>> values;  // owned first: a later step may throw
  for (OrtValue* value : raw) values.emplace_back(value, ort_->ReleaseValue);
  std::vector<Output> outputs;
  for (size_t i = 0; i < values.size(); ++i) {
    outputs.push_back(Describe(outputs_[i], std::move(values[i])));
  }
  return outputs;
}
