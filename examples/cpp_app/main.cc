// Runs an artifact of slc with nothing but onnxruntime's shared library.

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <numeric>

#include "session.h"

namespace {

constexpr char kUsage[] =
    "usage: cpp_app ARTIFACT --ids N,N,... [--threads N] [--repeats R] [--output FILE] [--ort "
    "PATH]\n"
    "\n"
    "Runs ARTIFACT/model.onnx on one sequence of token ids and prints every output's name, type,\n"
    "shape and first values, and the latency.\n"
    "\n"
    "  --ids N,N,...   the token ids, such as 101,7592,102\n"
    "  --threads N     threads of an operator; left out, onnxruntime decides\n"
    "  --repeats R     timed runs after the first one, 10 when left out\n"
    "  --output FILE   writes the bytes of the first output\n"
    "  --ort PATH      libonnxruntime.so, 1.17 or newer; left out, the environment's ORT_LIBRARY, "
    "or\n"
    "                  what the dynamic linker finds\n";
constexpr size_t kValuesShown = 8;

struct Options {
  std::string artifact, output, ort;
  std::vector<int64_t> ids;
  int threads = 0, repeats = 10;
};

int64_t ParseNumber(const std::string& option, const std::string& text, int64_t smallest,
                    int64_t largest) {
  char* end = nullptr;
  errno = 0;
  const int64_t number = std::strtoll(text.c_str(), &end, 10);
  if (text.empty() || *end != '\0' || errno != 0 || number < smallest || number > largest) {
    throw Error(option + " wants a number from " + std::to_string(smallest) + " to " +
                std::to_string(largest) + ": got '" + text + "'");
  }
  return number;
}

std::vector<int64_t> ParseIds(const std::string& text) {
  std::vector<int64_t> ids;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    ids.push_back(ParseNumber("--ids", text.substr(begin, end - begin), 0, INT32_MAX));
    begin = end + 1;
  }
  return ids;
}

Options ParseOptions(int argc, char** argv) {
  Options options;
  if (const char* library = std::getenv("ORT_LIBRARY")) options.ort = library;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name.rfind("--", 0) != 0) {
      if (!options.artifact.empty()) throw Error("got a second ARTIFACT, " + name);
      options.artifact = name;
      continue;
    }
    if (i + 1 == argc) throw Error(name + " wants a value, or is no option; see --help");
    const std::string value = argv[++i];
    if (name == "--ids") {
      options.ids = ParseIds(value);
    } else if (name == "--threads") {
      options.threads = static_cast<int>(ParseNumber(name, value, 1, 1024));
    } else if (name == "--repeats") {
      options.repeats = static_cast<int>(ParseNumber(name, value, 0, 1000000));
    } else if (name == "--output") {
      options.output = value;
    } else if (name == "--ort") {
      options.ort = value;
    } else {
      throw Error("there is no option " + name + "; see --help");
    }
  }
  if (options.artifact.empty()) throw Error("an ARTIFACT folder is missing; see --help");
  if (options.ids.empty()) throw Error("--ids is missing; see --help");
  return options;
}

float HalfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t exponent = half >> 10 & 31, mantissa = half & 1023;
  if (exponent == 0) {  // zero and subnormal numbers: mantissa · 2⁻²⁴
    const float magnitude = static_cast<float>(mantissa) * 5.9604644775390625e-08f;
    return sign != 0 ? -magnitude : magnitude;
  }
  const uint32_t wide = exponent == 31 ? 255 : exponent + 112;
  const uint32_t bits = sign | wide << 23 | mantissa << 13;
  float number;
  std::memcpy(&number, &bits, sizeof number);
  return number;
}

template <typename T>
T Element(const Output& output, size_t index) {
  T element;
  std::memcpy(&element, static_cast<const char*>(output.data) + index * sizeof(T), sizeof(T));
  return element;
}

const char* TypeName(ONNXTensorElementDataType type) {
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
      return "float32";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16:
      return "float16";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32:
      return "int32";
    default:
      return "int64";  // Session::Run refuses others
  }
}

void PrintElement(const Output& output, size_t index) {
  switch (output.type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
      std::printf(" %.6g", Element<float>(output, index));
      break;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16:
      std::printf(" %.5g", HalfToFloat(Element<uint16_t>(output, index)));
      break;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32:
      std::printf(" %d", Element<int32_t>(output, index));
      break;
    default:
      std::printf(" %lld", static_cast<long long>(Element<int64_t>(output, index)));
  }
}

void PrintOutput(const Output& output) {
  std::printf("%s %s [", output.name.c_str(), TypeName(output.type));
  for (size_t i = 0; i < output.dims.size(); ++i) {
    std::printf(i == 0 ? "%lld" : ", %lld", static_cast<long long>(output.dims[i]));
  }
  std::printf("]:");
  const size_t count = output.bytes / ElementBytes(output.type, output.name);
  for (size_t i = 0; i < std::min(count, kValuesShown); ++i) PrintElement(output, i);
  std::printf(count > kValuesShown ? " ...\n" : "\n");
}

void WriteOutput(const Output& output, const std::string& path) {
  std::ofstream file(path, std::ios::binary);
  file.write(static_cast<const char*>(output.data), static_cast<std::streamsize>(output.bytes));
  file.close();
  if (!file) throw Error(path + " can't be written");
}

template <typename Step>
double Milliseconds(Step step) {
  const auto begin = std::chrono::steady_clock::now();
  step();
  const std::chrono::duration<double, std::milli> taken = std::chrono::steady_clock::now() - begin;
  return taken.count();
}

void PrintLatency(std::vector<double> times) {
  std::sort(times.begin(), times.end());
  const size_t half = times.size() / 2, tenth = std::max<size_t>(1, times.size() / 10);
  const double median = times.size() % 2 != 0 ? times[half] : (times[half - 1] + times[half]) / 2;
  const double fastest = std::accumulate(times.begin(), times.begin() + tenth, 0.0) / tenth;
  std::printf("latency: median %.3f ms, fastest tenth %.3f ms, of %zu runs\n", median, fastest,
              times.size());
}

void RunArtifact(const Options& options) {
  const Runtime runtime(options.ort);
  std::printf("onnxruntime %s\n", runtime.version().c_str());
  std::unique_ptr<Session> session;
  const double load = Milliseconds(
      [&] { session = std::make_unique<Session>(runtime, options.artifact, options.threads); });
  const std::vector<Tensor> feeds = session->Feeds(options.ids);
  std::vector<Output> outputs;
  const double first = Milliseconds([&] { outputs = session->Run(feeds); });
  for (const Output& output : outputs) PrintOutput(output);
  if (!options.output.empty()) WriteOutput(outputs.front(), options.output);
  std::printf("load: %.3f ms, first run: %.3f ms\n", load, first);
  std::vector<double> times;
  for (int i = 0; i < options.repeats; ++i) {
    times.push_back(Milliseconds([&] { session->Run(feeds); }));
  }
  if (!times.empty()) PrintLatency(std::move(times));
}

}  // namespace

int main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--help") == 0) {
      std::fputs(kUsage, stdout);
      return 0;
    }
  }
  try {
    RunArtifact(ParseOptions(argc, argv));
  } catch (const std::exception& error) {
    std::string text = error.what();
    std::replace(text.begin(), text.end(), '\n', ' ');  // onnxruntime's messages may have lines
    std::fprintf(stderr, "cpp_app: %s\n", text.c_str());
    return 1;
  }
}
