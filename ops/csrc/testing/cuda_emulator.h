// Runs the kernels of csrc/cuda on the CPU, one cluster of thread blocks at a time: every CUDA
// thread is a fiber, which gives way wherever threads wait for each other. It is there to find
// wrong indices, missing waits and missing barriers, not to be fast:
//
// - shared memory begins as NaN bits, and reads or writes beyond what was asked for abort;
// - cp.async copies when it is waited for and not before, so that reading too early reads what was;
// - threads run in an order that a seed shuffles anew whenever all have given way, and half of the
//   warps rest as long as the others get on;
// - shared memory of another block of the cluster can be read as long as that block runs;
// - what kernels read of global memory is counted;
// - a collective that some threads of a warp never reach aborts with what each waits for.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#include "../f16.h"

#define SLC_HOST_DEVICE
#define SLC_DEVICE inline
#define SLC_KERNEL static
#define SLC_THREADS(most)
#define SLC_UNROLL
#define SLC_ROLLED

namespace slc::cuda {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using i64 = long long;

namespace emulated {

[[noreturn]] inline void Abort(const char* why) {
  std::fprintf(stderr, "cuda_emulator: %s\n", why);
  std::abort();
}

struct Copy {
  void* to;
  const void* from;
};

// D (+)= A · B of a warpgroup, which reads its operands when it is waited for.
struct Product {
  float (*d)[4];
  int columns8;
  const u32* a;
  u64 b;
  bool add;
  u64 hash;  // of B when it was issued, from lane 0
};

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  bool done = false;
  const char* waits = nullptr;
  std::vector<Copy> open;                 // issued since the last commit
  std::vector<std::vector<Copy>> groups;  // committed, not yet waited for
  std::vector<Product> products;          // of wgmma, not yet waited for
  size_t committed = 0;                   // of those
  std::vector<size_t> unfenced;  // units of shared memory written since the last FenceAsync
};

// What the threads of one warp, or of one block, meet in.
struct Meeting {
  int size = 0, arrived = 0;
  u64 round = 0;
};

struct Warp {
  Meeting meeting;
  u32 words[2][32][8];  // by round: a thread may be a round ahead of the slowest reader
};

struct Cluster;

struct Block {
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  Meeting meeting;
  std::vector<u8> memory;  // with a margin on both sides
  u8* shared = nullptr;
  std::vector<int> unfenced;  // of each 16 bytes of shared memory: writes that wgmma can't see yet
  int threads = 0, shared_bytes = 0, rank = 0;
  i64 x = 0, y = 0;
  int current = 0;
  bool done = false;
  Cluster* cluster = nullptr;
};

// Thread blocks that run at the same time.
struct Cluster {
  std::vector<Block> blocks;
  Meeting meeting;
  ucontext_t scheduler;
  bool moved = false;  // whether any thread got on since the last shuffle
  std::function<void()> body;
};

// What a launch read of global memory, in bytes.
inline u64& BytesRead() {
  static u64 bytes = 0;
  return bytes;
}

inline Block*& Now() {
  static thread_local Block* block = nullptr;
  return block;
}

constexpr int kMargin = 4096;
constexpr u8 kMarginByte = 0xA5;
constexpr size_t kStackBytes = 128 * 1024;

inline Fiber& Self() { return Now()->fibers[static_cast<size_t>(Now()->current)]; }

inline void GiveWay(const char* waits) {
  Fiber& self = Self();
  self.waits = waits;
  swapcontext(&self.context, &Now()->cluster->scheduler);
}

// Waits until all `meeting.size` threads have come.
inline void Meet(Meeting* meeting, const char* what) {
  const u64 round = meeting->round;
  if (++meeting->arrived == meeting->size) {
    meeting->arrived = 0;
    ++meeting->round;
  }
  Now()->cluster->moved = true;
  while (meeting->round == round) GiveWay(what);
  Now()->cluster->moved = true;
}

inline Warp& OwnWarp() { return Now()->warps[static_cast<size_t>(Now()->current / 32)]; }

// Every lane gives eight words and sees those of all.
inline const u32 (*Exchange(const u32 (&words)[8], const char* what))[8] {
  Warp& warp = OwnWarp();
  const u64 slot = warp.meeting.round % 2;
  std::memcpy(warp.words[slot][Now()->current % 32], words, sizeof(words));
  Meet(&warp.meeting, what);
  return warp.words[slot];
}

inline void CheckShared(const void* at, size_t bytes) {
  const Block& block = *Now();
  const u8* p = static_cast<const u8*>(at);
  if (p < block.shared || p + bytes > block.shared + block.shared_bytes) {
    Abort("an address outside shared memory");
  }
}

inline void Entry() {
  Now()->cluster->body();
  Fiber& self = Self();
  if (!self.open.empty()) Abort("a thread ends with copies that were never committed");
  for (const auto& group : self.groups) {
    if (!group.empty()) Abort("a thread ends with copies that were never waited for");
  }
  if (!self.products.empty()) Abort("a thread ends with a wgmma that was never waited for");
  self.done = true;
  Now()->cluster->moved = true;
  swapcontext(&self.context, &Now()->cluster->scheduler);
}

inline void Begin(Block* block) {
  std::fill(block->memory.begin(), block->memory.end(), kMarginByte);
  std::memset(block->shared, 0xFF, static_cast<size_t>(block->shared_bytes));  // NaN, f16 and f32
  block->unfenced.assign(static_cast<size_t>(block->shared_bytes / 16 + 1), 0);
  block->meeting = {block->threads, 0, 0};
  block->done = false;
  for (Warp& warp : block->warps) warp.meeting = {32, 0, 0};
  for (Fiber& fiber : block->fibers) {
    fiber.done = false;
    fiber.open.clear();
    fiber.groups.clear();
    fiber.products.clear();
    fiber.committed = 0;
    fiber.unfenced.clear();
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, Entry, 0);
  }
}

// A block whose threads have all ended: its shared memory is another's from now on.
inline void End(Block* block) {
  for (int i = 0; i < kMargin; ++i) {
    if (block->memory[static_cast<size_t>(i)] != kMarginByte ||
        block->shared[block->shared_bytes + i] != kMarginByte) {
      Abort("a write outside shared memory");
    }
  }
  std::memset(block->shared, 0xFF, static_cast<size_t>(block->shared_bytes));
  block->done = true;
}

inline void RunCluster(Cluster* cluster, std::mt19937* order) {
  std::vector<std::pair<Block*, int>> turn;
  cluster->meeting = {0, 0, 0};
  for (Block& block : cluster->blocks) {
    Begin(&block);
    cluster->meeting.size += block.threads;
    for (int i = 0; i < block.threads; ++i) turn.emplace_back(&block, i);
  }
  u32 resting = static_cast<u32>((*order)());
  while (!turn.empty()) {
    std::shuffle(turn.begin(), turn.end(), *order);
    cluster->moved = false;
    if ((*order)() % 16 == 0) resting = static_cast<u32>((*order)());
    for (const bool rested : {false, true}) {  // whole warps fall behind, while others can go on
      if (rested && cluster->moved) break;
      for (const auto& [block, i] : turn) {
        const int warp = block->rank * (block->threads / 32) + i / 32;
        if ((resting >> warp % 32 & 1u) != static_cast<u32>(rested)) continue;
        block->current = i;
        Now() = block;
        swapcontext(&cluster->scheduler, &block->fibers[static_cast<size_t>(i)].context);
      }
    }
    const auto ended = [](const std::pair<Block*, int>& one) {
      return one.first->fibers[static_cast<size_t>(one.second)].done;
    };
    turn.erase(std::remove_if(turn.begin(), turn.end(), ended), turn.end());
    for (Block& block : cluster->blocks) {
      const auto its = [&](const std::pair<Block*, int>& one) { return one.first == &block; };
      if (!block.done && std::none_of(turn.begin(), turn.end(), its)) End(&block);
    }
    if (!cluster->moved) {
      const auto [block, i] = turn.front();
      const Fiber& stuck = block->fibers[static_cast<size_t>(i)];
      std::fprintf(stderr, "%zu threads are stuck; thread %d in %s\n", turn.size(), i,
                   stuck.waits == nullptr ? "nothing" : stuck.waits);
      Abort("threads wait for others that never come");
    }
  }
  Now() = nullptr;
}

// A launch: `kernel()` as every thread of every block, `ranks` blocks a cluster.
inline void Launch(i64 x, i64 y, int threads, int shared_bytes, int ranks, unsigned seed,
                   std::function<void()> kernel) {
  if (threads % 32 != 0) Abort("whole warps only");
  if (x % ranks != 0) Abort("a grid that clusters do not divide");
  Cluster cluster;
  cluster.blocks.resize(static_cast<size_t>(ranks));
  for (int rank = 0; rank < ranks; ++rank) {
    Block& block = cluster.blocks[static_cast<size_t>(rank)];
    block.cluster = &cluster;
    block.rank = rank;
    block.threads = threads;
    block.shared_bytes = shared_bytes;
    block.memory.resize(static_cast<size_t>(2 * kMargin + shared_bytes + 16));
    u8* begin = block.memory.data() + kMargin;
    block.shared = begin + (16 - reinterpret_cast<std::uintptr_t>(begin) % 16) % 16;
    block.fibers.resize(static_cast<size_t>(threads));
    for (Fiber& fiber : block.fibers) fiber.stack.reset(new char[kStackBytes]);
    block.warps.resize(static_cast<size_t>(threads / 32));
  }
  cluster.body = std::move(kernel);
  std::mt19937 order(seed);
  for (i64 at_y = 0; at_y < y; ++at_y) {
    for (i64 at_x = 0; at_x < x; at_x += ranks) {
      for (Block& block : cluster.blocks) block.x = at_x + block.rank, block.y = at_y;
      RunCluster(&cluster, &order);
    }
  }
}

}  // namespace emulated

inline int PopCount(u32 x) { return __builtin_popcount(x); }
inline int Thread() { return emulated::Now()->current; }
inline int Lane() { return Thread() % 32; }
inline int Warp() { return Thread() / 32; }
inline int Threads() { return emulated::Now()->threads; }
inline i64 BlockX() { return emulated::Now()->x; }
inline i64 BlockY() { return emulated::Now()->y; }
inline u8* SharedMemory() { return emulated::Now()->shared; }

inline u32 Shuffle(u32 value, int from) {
  return emulated::Exchange({value}, "Shuffle")[from & 31][0];
}
inline u32 ShuffleUp(u32 value, int by) {
  const int from = Lane() - by;
  const auto* words = emulated::Exchange({value}, "ShuffleUp");
  return from < 0 ? value : words[from][0];
}
inline float BitsToFloat(u32 bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
inline u32 FloatToBits(float value) {
  u32 bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}
inline float ShuffleXor(float value, int mask) {
  const int from = Lane() ^ mask;
  return BitsToFloat(emulated::Exchange({FloatToBits(value)}, "ShuffleXor")[from][0]);
}
inline void SyncWarp() { emulated::Meet(&emulated::OwnWarp().meeting, "SyncWarp"); }
inline void SyncBlock() { emulated::Meet(&emulated::Now()->meeting, "SyncBlock"); }

inline int ClusterSize() { return static_cast<int>(emulated::Now()->cluster->blocks.size()); }
inline i64 ClusterX() { return emulated::Now()->x / ClusterSize(); }
inline int ClusterRank() { return emulated::Now()->rank; }
inline void SyncCluster() { emulated::Meet(&emulated::Now()->cluster->meeting, "SyncCluster"); }
inline float LoadOfRank(const float* own, int rank) {
  emulated::CheckShared(own, sizeof(float));
  const emulated::Block& other = emulated::Now()->cluster->blocks[static_cast<size_t>(rank)];
  if (other.done) emulated::Abort("shared memory of a block that has ended");
  const auto at = reinterpret_cast<const u8*>(own) - emulated::Now()->shared;
  float value;
  std::memcpy(&value, other.shared + at, sizeof(value));
  return value;
}

inline void CopyAsync(void* shared, const void* global) {
  emulated::CheckShared(shared, 16);
  if (reinterpret_cast<std::uintptr_t>(shared) % 16 != 0 ||
      reinterpret_cast<std::uintptr_t>(global) % 16 != 0) {
    emulated::Abort("cp.async: an address that is no multiple of 16");
  }
  emulated::Self().open.push_back({shared, global});
  emulated::BytesRead() += 16;
}
inline void CopyCommit() {
  emulated::Fiber& self = emulated::Self();
  self.groups.push_back(std::move(self.open));
  self.open.clear();
}
template <int kPending>
void CopyWait() {
  emulated::Fiber& self = emulated::Self();
  while (self.groups.size() > kPending) {
    for (const emulated::Copy& copy : self.groups.front()) std::memcpy(copy.to, copy.from, 16);
    self.groups.erase(self.groups.begin());
  }
}

// Reads of global memory.
template <class T>
T Read(const T* p) {
  emulated::BytesRead() += sizeof(T);
  return *p;
}
inline u32 Load32(const u32* p) { return Read(p); }
struct Pair {
  u32 x, y;
};
inline Pair SharedPair(const void* p) {
  if (reinterpret_cast<std::uintptr_t>(p) % 8 != 0) emulated::Abort("8 bytes: not aligned to 8");
  Pair pair;
  std::memcpy(&pair, p, sizeof(pair));
  return pair;
}
inline Pair Load64(const void* p) {
  emulated::BytesRead() += 8;
  return SharedPair(p);
}
struct Quad {
  u32 x[4];
};
inline Quad SharedQuad(const void* p) {
  if (reinterpret_cast<std::uintptr_t>(p) % 16 != 0) emulated::Abort("SharedQuad: not aligned");
  Quad quad;
  std::memcpy(&quad, p, sizeof(quad));
  return quad;
}
inline void StoreQuad(void* p, const u32 (&x)[4]) {
  emulated::CheckShared(p, 16);
  if (reinterpret_cast<std::uintptr_t>(p) % 16 != 0) emulated::Abort("StoreQuad: not aligned");
  std::memcpy(p, x, 16);
  const auto unit = static_cast<size_t>(static_cast<u8*>(p) - emulated::Now()->shared) / 16;
  emulated::Self().unfenced.push_back(unit);
  ++emulated::Now()->unfenced[unit];
}
inline u16 Load16(const u16* p) { return Read(p); }
inline float LoadFloat(const float* p) { return Read(p); }
inline signed char LoadByte(const signed char* p) { return Read(p); }

inline float HalfToFloat(u16 half) { return slc::HalfToFloat(half); }
inline u16 FloatToHalf(float value) { return slc::FloatToHalf(value); }
inline u32 SubtractHalves(u32 a, u32 b) {
  const auto one = [](u32 x, u32 y) -> u32 {
    return FloatToHalf(HalfToFloat(static_cast<u16>(x)) - HalfToFloat(static_cast<u16>(y)));
  };
  return one(a, b) | one(a >> 16, b >> 16) << 16;
}

// As PTX defines m16n8k16, from the operands of all lanes; see device.h.
inline void Mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  const int g = Lane() / 4, t = Lane() % 4;
  const auto* words = emulated::Exchange({a[0], a[1], a[2], a[3], b0, b1}, "Mma");
  const auto half = [](u32 word, int i) { return HalfToFloat(static_cast<u16>(word >> 16 * i)); };
  for (int i = 0; i < 4; ++i) {
    const int row = g + i / 2 * 8, column = 2 * t + i % 2;
    float sum = c[i];
    for (int k = 0; k < 16; ++k) {
      const int a_word = row / 8 + k / 8 * 2, b_word = 4 + k / 8;
      const int a_lane = row % 8 * 4 + k % 8 / 2, b_lane = column * 4 + k % 8 / 2;
      sum += half(words[a_lane][a_word], k % 2) * half(words[b_lane][b_word], k % 2);
    }
    c[i] = sum;
  }
}

// wgmma, as PTX defines it for A in registers and B in shared memory under the 128-byte swizzle. It
// runs when it is waited for, on what its operands are then: a register or a slot that is written
// too early gives a wrong product.
#define SLC_HAVE_WGMMA 1

namespace emulated {

// Where shared memory begins for the hardware: not where a swizzle's period does.
constexpr u32 kSharedBase = 1024 + 48;

inline float SharedHalf(u32 address) {
  const u32 swizzled = address ^ (address >> 7 & 7u) << 4;
  const u8* at = Now()->shared + (static_cast<i64>(swizzled) - kSharedBase);
  CheckShared(at, 2);
  if (Now()->unfenced[static_cast<size_t>(at - Now()->shared) / 16] != 0) {
    Abort("wgmma reads what was written without a fence");
  }
  u16 half;
  std::memcpy(&half, at, 2);
  return slc::HalfToFloat(half);
}

// Every byte of B [16, 8 · columns8], which must be there and fenced.
inline u64 HashOfB(u64 b, int columns8) {
  u64 hash = 0;
  const u32 start = static_cast<u32>(b & 0x3fffu) << 4, stride = static_cast<u32>(b >> 32 & 0x3fffu)
                                                                 << 4;
  for (int column = 0; column < 8 * columns8; ++column) {
    for (int k = 0; k < 16; ++k) {
      const u32 at = start + static_cast<u32>(column / 8) * stride +
                     static_cast<u32>(column % 8 * 128 + k * 2);
      const float half = SharedHalf(at);
      u32 bits;
      std::memcpy(&bits, &half, 4);
      hash = (hash ^ bits) * 1099511628211u;
    }
  }
  return hash;
}

inline void Multiply(const Product& product) {
  if (Now()->current % 32 == 0 && product.hash != HashOfB(product.b, product.columns8)) {
    Abort("wgmma: B was written while it was read");
  }
  const auto* words =
      Exchange({product.a[0], product.a[1], product.a[2], product.a[3]}, "WgmmaWait");
  if (product.b >> 46 != 1u << 16)
    Abort("wgmma: a descriptor of another kind than 128-byte swizzle");
  const u32 start = static_cast<u32>(product.b & 0x3fffu) << 4;
  const u32 stride = static_cast<u32>(product.b >> 32 & 0x3fffu) << 4;  // of eight columns
  const int lane = Now()->current % 32, g = lane / 4, t = lane % 4;
  float a[2][16];  // rows g and g + 8
  for (int k = 0; k < 16; ++k) {
    for (int half = 0; half < 2; ++half) {
      const u32 word = words[g * 4 + k % 8 / 2][half + k / 8 * 2];
      a[half][k] = slc::HalfToFloat(static_cast<u16>(word >> k % 2 * 16));
    }
  }
  for (int j = 0; j < product.columns8; ++j) {
    for (int odd = 0; odd < 2; ++odd) {
      const u32 column = start + static_cast<u32>(j) * stride + static_cast<u32>(2 * t + odd) * 128;
      float sum[2] = {};
      if (product.add) sum[0] = product.d[j][odd], sum[1] = product.d[j][2 + odd];
      for (int k = 0; k < 16; ++k) {
        const float b = SharedHalf(column + static_cast<u32>(k) * 2);
        sum[0] += a[0][k] * b;
        sum[1] += a[1][k] * b;
      }
      product.d[j][odd] = sum[0], product.d[j][2 + odd] = sum[1];
    }
  }
}

}  // namespace emulated

inline u32 SharedAddress(const void* p) {
  return static_cast<u32>(static_cast<const u8*>(p) - emulated::Now()->shared) +
         emulated::kSharedBase;
}
inline void FenceAsync() {
  for (const size_t unit : emulated::Self().unfenced) --emulated::Now()->unfenced[unit];
  emulated::Self().unfenced.clear();
}
inline void WgmmaFence() {}
inline void WgmmaCommit() { emulated::Self().committed = emulated::Self().products.size(); }
inline void WgmmaWait() {
  emulated::Fiber& self = emulated::Self();
  if (self.committed != self.products.size()) emulated::Abort("a wgmma that was never committed");
  for (const emulated::Product& product : self.products) emulated::Multiply(product);
  self.products.clear();
  self.committed = 0;
}
template <class T>
void InFlight(T&) {}
template <int kColumns8>
void Wgmma(float (&d)[kColumns8][4], const u32 (&a)[4], u64 b, bool add) {
  const u64 hash = Lane() == 0 ? emulated::HashOfB(b, kColumns8) : 0;
  emulated::Self().products.push_back({d, kColumns8, a, b, add, hash});
}

inline void AtomicOr(u32* p, u32 bits) { *p |= bits; }
inline void AtomicAdd(u64* p, u64 value) { *p += value; }
inline void AtomicAdd(unsigned long long* p, u64 value) { *p += value; }

}  // namespace slc::cuda
