// How an operator runs its tasks: on the session's threads, or in a plain loop in the tests.
#ifndef SLC_PARALLEL_H_
#define SLC_PARALLEL_H_

#include <cstddef>

namespace slc {

// Runs task(data, 0 ... count - 1), in any order and on any threads, and returns when all are done.
// Tasks must not throw.
struct Parallel {
  using Task = void (*)(void* data, size_t index);
  void (*run)(void* context, Task task, size_t count, void* data);
  void* context;
};

}  // namespace slc

#endif  // SLC_PARALLEL_H_
