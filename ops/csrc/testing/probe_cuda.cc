// Loads libslc_ops_cuda.so as libslc_ops.so does, and says what it holds and whether it can run
// here.
//
//   probe_cuda PATH
#include <dlfcn.h>

#include <cstdio>

int main(int argc, char** argv) {
  if (argc != 2) return std::fprintf(stderr, "usage: probe_cuda libslc_ops_cuda.so\n"), 2;
  void* library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return std::fprintf(stderr, "%s\n", dlerror()), 1;
  using Text = const char* (*)();
  const auto images = reinterpret_cast<Text>(dlsym(library, "slc_cuda_images"));
  const auto prepare = reinterpret_cast<Text>(dlsym(library, "slc_cuda_prepare"));
  if (images == nullptr || prepare == nullptr) {
    return std::fprintf(stderr, "not a CUDA library of slc\n"), 1;
  }
  std::printf("images: %s\n", images());
  const char* reason = prepare();
  std::printf("runs here: %s\n", reason == nullptr ? "yes" : reason);
  return 0;
}
