// What the host hands to the kernels: plain values, the same layout on both sides.
#pragma once

namespace slc::cuda {

// A blob in the layout "tiles" in device memory.
struct TileMatrix {
  long long n, k;
  long long tiles;                  // of 16 rows
  long long blocks;                 // of 64 columns, in a tile
  long long group_blocks;           // blocks that share a scale; 0 for f16
  long long groups;                 // scales in a row
  const unsigned* starts;           // [tiles · blocks + 1], units of 16 bytes
  const unsigned* masks;            // [tiles · blocks, 32]
  const unsigned short* scales;     // f16 [tiles, groups, 16]
  const signed char* codebook;      // [16]
  const unsigned char* values;      // aligned to 16
  float scale_first, scale_second;  // 2^exponent as a product: it may be below float's range
};

// Y[m, n] = X[m, k] · Sᵀ + bias.
struct GemmArguments {
  TileMatrix S;
  const void* x;      // f16 or f32 [m, k]
  const float* bias;  // [n] or null
  void* y;            // the type of x, [m, n]
  long long m;
};

constexpr int kAdaptersMax = 16;  // of one launch; the host makes several of more

enum DenseKind { kDenseF32 = 0, kDenseF16 = 1, kDenseI8 = 2 };

// One adapter's A [rank, k] or B [n, rank], row-major.
struct Adapter {
  const void* data;    // aligned to its type's size only
  const float* scale;  // of each row of an i8 matrix, else null
  long long rank;
  long long begin;  // its first column of H
  int type;         // DenseKind
  int reserved;
};

// H[m, begin … begin + rank) = gate ⊙ scale ⊙ (X[m, k] · Aᵀ) of every adapter.
struct DownArguments {
  const void* x;
  const float* gate;  // [stride] or null
  void* h;            // the type of x, [m, stride]
  long long m, k, stride;
  long long ranks;  // of all adapters together
  Adapter adapters[kAdaptersMax];
  int count;
  int reserved;
};

// Y = Y0 + sum of scale ⊙ (H[m, begin … begin + rank) · Bᵀ); Y may be Y0.
struct UpArguments {
  const void* y0;
  const void* h;
  void* y;
  long long m, n, stride;
  Adapter adapters[kAdaptersMax];
  int count;
  int reserved;
};

// Checks a blob on the device: one bit of `faults` for each kind, the stored values in `stored`.
struct CheckArguments {
  TileMatrix S;
  int value_type;
  unsigned* faults;
  unsigned long long* stored;
};
enum Fault : unsigned {
  kStartsWrong = 1,
  kBitOutside = 2,
  kFirstStartWrong = 4,
  kCodebookWrong = 8
};

}  // namespace slc::cuda
