// What the kernels use of a GPU, in one place: under NVRTC or nvcc as PTX, in tests on the CPU by
// the emulator (testing/cuda_emulator.h). No header of CUDA is needed. A half is its bits.
#pragma once

#if defined(SLC_CUDA_EMULATED)

#include "../testing/cuda_emulator.h"

#elif defined(__CUDACC__) || defined(__CUDACC_RTC__)

#define SLC_HOST_DEVICE __host__ __device__
#define SLC_DEVICE __device__ __forceinline__
#define SLC_KERNEL extern "C" __global__
#define SLC_THREADS(most) __launch_bounds__(most, 1)  // 1: registers before occupancy
#define SLC_UNROLL _Pragma("unroll")
#define SLC_ROLLED _Pragma("unroll 1")

namespace slc::cuda {

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;
using i64 = long long;

constexpr u32 kWholeWarp = 0xffffffffu;

SLC_DEVICE int PopCount(u32 x) { return __popc(x); }

SLC_DEVICE int Lane() { return static_cast<int>(threadIdx.x) & 31; }
SLC_DEVICE int Warp() { return static_cast<int>(threadIdx.x) >> 5; }
SLC_DEVICE int Thread() { return static_cast<int>(threadIdx.x); }
SLC_DEVICE int Threads() { return static_cast<int>(blockDim.x); }
SLC_DEVICE i64 BlockX() { return blockIdx.x; }
SLC_DEVICE i64 BlockY() { return blockIdx.y; }

SLC_DEVICE u32 Shuffle(u32 value, int from) { return __shfl_sync(kWholeWarp, value, from); }
SLC_DEVICE u32 ShuffleUp(u32 value, int by) { return __shfl_up_sync(kWholeWarp, value, by); }
SLC_DEVICE float ShuffleXor(float value, int mask) {
  return __shfl_xor_sync(kWholeWarp, value, mask);
}
SLC_DEVICE void SyncWarp() { __syncwarp(); }
SLC_DEVICE void SyncBlock() { __syncthreads(); }

// A cluster: thread blocks, neighbours in x, that run at the same time and can read each other's
// shared memory. Since sm_90; before it, and in launches without one, a block is its own cluster.
#if __CUDA_ARCH__ >= 900
SLC_DEVICE int ClusterSize() {
  u32 size;
  asm("mov.u32 %0, %%cluster_nctaid.x;" : "=r"(size));
  return static_cast<int>(size);
}
SLC_DEVICE i64 ClusterX() {
  u32 x;
  asm("mov.u32 %0, %%clusterid.x;" : "=r"(x));
  return x;
}
SLC_DEVICE int ClusterRank() {
  u32 rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}
SLC_DEVICE void SyncCluster() {
  asm volatile("barrier.cluster.arrive;" ::: "memory");
  asm volatile("barrier.cluster.wait;" ::: "memory");
}
// What block `rank` has where this one has `own`.
SLC_DEVICE float LoadOfRank(const float* own, int rank) {
  const u32 here = static_cast<u32>(__cvta_generic_to_shared(own));
  u32 there;
  float value;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(here), "r"(rank));
  asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(value) : "r"(there) : "memory");
  return value;
}
#else
SLC_DEVICE int ClusterSize() { return 1; }
SLC_DEVICE i64 ClusterX() { return BlockX(); }
SLC_DEVICE int ClusterRank() { return 0; }
SLC_DEVICE void SyncCluster() { __syncthreads(); }
SLC_DEVICE float LoadOfRank(const float* own, int) { return *own; }
#endif

// The dynamic shared memory of a block, aligned to 16 bytes.
SLC_DEVICE u8* SharedMemory() {
  extern __shared__ __align__(16) u8 slc_shared[];
  return slc_shared;
}

// 16 bytes of global memory to shared memory, both aligned to 16, past L1.
SLC_DEVICE void CopyAsync(void* shared, const void* global) {
  const u32 to = static_cast<u32>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
}
SLC_DEVICE void CopyCommit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until all but the newest `kPending` groups of this thread have arrived.
template <int kPending>
SLC_DEVICE void CopyWait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Reads that nobody writes meanwhile.
SLC_DEVICE u32 Load32(const u32* p) { return __ldg(p); }
struct Pair {
  u32 x, y;
};
SLC_DEVICE Pair Load64(const void* p) {  // aligned to 8
  const uint2 v = __ldg(static_cast<const uint2*>(p));
  return {v.x, v.y};
}
// Shared memory, aligned to what is read or written at once.
struct Quad {
  u32 x[4];
};
SLC_DEVICE Pair SharedPair(const void* p) {
  const uint2 v = *static_cast<const uint2*>(p);
  return {v.x, v.y};
}
SLC_DEVICE Quad SharedQuad(const void* p) {
  const uint4 v = *static_cast<const uint4*>(p);
  return {{v.x, v.y, v.z, v.w}};
}
SLC_DEVICE void StoreQuad(void* p, const u32 (&x)[4]) {
  *static_cast<uint4*>(p) = make_uint4(x[0], x[1], x[2], x[3]);
}
SLC_DEVICE u16 Load16(const u16* p) { return __ldg(p); }
SLC_DEVICE float LoadFloat(const float* p) { return __ldg(p); }
SLC_DEVICE signed char LoadByte(const signed char* p) { return __ldg(p); }

SLC_DEVICE float BitsToFloat(u32 bits) { return __uint_as_float(bits); }
SLC_DEVICE float HalfToFloat(u16 half) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
  return value;
}
SLC_DEVICE u16 FloatToHalf(float value) {  // to the nearest, ties to even
  u16 half;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(value));
  return half;
}
SLC_DEVICE u32 SubtractHalves(u32 a, u32 b) {  // two at a time
  u32 difference;
  asm("sub.f16x2 %0, %1, %2;" : "=r"(difference) : "r"(a), "r"(b));
  return difference;
}

// C[16, 8] += A[16, 16] · B[16, 8], halves to floats. A: a[0] is (row g, columns 2t and 2t + 1),
// a[1] 8 rows below, a[2] 8 columns on, a[3] both; B: b0 is rows 2t and 2t + 1 of column g, b1 8
// rows on; C: c[0], c[1] are (row g, columns 2t, 2t + 1), c[2], c[3] 8 rows below; g = lane / 4, t
// = lane % 4.
SLC_DEVICE void Mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Tensor cores that four warps, a warpgroup, share, and that read B from shared memory by
// themselves: of sm_90a alone. Each call returns at once; until WgmmaWait nobody may touch its
// operands.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define SLC_HAVE_WGMMA 1

SLC_DEVICE u32 SharedAddress(const void* p) {
  return static_cast<u32>(__cvta_generic_to_shared(p));
}
// After writes to shared memory that Wgmma is to read, before the barrier that tells of them.
SLC_DEVICE void FenceAsync() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
// Before the first Wgmma after its registers were written by anything else.
SLC_DEVICE void WgmmaFence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
SLC_DEVICE void WgmmaCommit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until every Wgmma that was committed has ended.
SLC_DEVICE void WgmmaWait() { asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory"); }
// Tells the compiler that registers are in use up to here, and are other ones from here on.
template <int kCount>
SLC_DEVICE void InFlight(float (&x)[kCount][4]) {
  SLC_UNROLL
  for (int i = 0; i < kCount; ++i) {
    asm volatile("" : "+f"(x[i][0]), "+f"(x[i][1]), "+f"(x[i][2]), "+f"(x[i][3])::"memory");
  }
}

// D[64, n] (+)= A[64, 16] · B[16, n], n = 8 · the first extent of d. Warp w of the group has rows
// 16·w … of A and D as in Mma, d[j] being columns 8·j …. b says where B is: see WgmmaOperand.
#define SLC_SUMS_OF(d, j) "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])
#define SLC_SUMS(d, j) \
  SLC_SUMS_OF(d, j), SLC_SUMS_OF(d, j + 1), SLC_SUMS_OF(d, j + 2), SLC_SUMS_OF(d, j + 3)
SLC_DEVICE void Wgmma(float (&d)[16][4], const u32 (&a)[4], u64 b, bool add) {
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, "
      "%18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, "
      "%35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, "
      "%52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "{%64, %65, %66, %67}, %68, p, 1, 1, 0;}"
      : SLC_SUMS(d, 0), SLC_SUMS(d, 4), SLC_SUMS(d, 8), SLC_SUMS(d, 12)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)));
}
SLC_DEVICE void Wgmma(float (&d)[32][4], const u32 (&a)[4], u64 b, bool add) {
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, %133, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.f16.f16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, "
      "%18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, "
      "%35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, "
      "%52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, %64, %65, %66, %67, %68, "
      "%69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, "
      "%86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, %101, "
      "%102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, "
      "%116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, "
      "{%128, %129, %130, %131}, %132, p, 1, 1, 0;}"
      : SLC_SUMS(d, 0), SLC_SUMS(d, 4), SLC_SUMS(d, 8), SLC_SUMS(d, 12), SLC_SUMS(d, 16),
        SLC_SUMS(d, 20), SLC_SUMS(d, 24), SLC_SUMS(d, 28)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)));
}
#endif

SLC_DEVICE void AtomicOr(u32* p, u32 bits) { atomicOr(p, bits); }
SLC_DEVICE void AtomicAdd(u64* p, u64 value) { atomicAdd(p, value); }

}  // namespace slc::cuda

#else  // a host file that only needs the index arithmetic

#define SLC_HOST_DEVICE
namespace slc::cuda {
inline int PopCount(unsigned x) { return __builtin_popcount(x); }
}  // namespace slc::cuda

#endif
