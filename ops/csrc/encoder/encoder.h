// Writes the sections of bitmap blobs, ../../FORMAT.md, for the program that makes artifacts.
//
// ../../bitmap.py is the definition: these functions give its bytes, hundreds of times as many a
// second, and ../../encoder.py calls them. Nothing of this goes to a device. Matrices are row-major
// and contiguous; no function allocates, keeps a pointer or has state, so threads may share all but
// what is written.
#ifndef SLC_ENCODER_ENCODER_H_
#define SLC_ENCODER_ENCODER_H_

#include <cstdint>

#define SLC_ENCODER_EXPORT __attribute__((visibility("default")))

extern "C" {

// Rows of a matrix on their way into a blob.
struct SlcRows {
  const float* values;        // [rows, k], finite
  const uint8_t* stored;      // [rows, k], 0 or 1: which are stored; null: those that are not 0
  const uint64_t* masks;      // [rows, ⌈k / 64⌉], the same as the blob has it
  const float* given_scales;  // [rows, ⌈k / group⌉], or null: made of each group's largest value
  const uint8_t* codes;       // [256], the code of each half unit (codebook.code_table), for i4
  int64_t rows;
  int64_t k;
  int64_t group;       // a multiple of 64; not for f16
  int32_t exponent;    // of the header
  int32_t value_type;  // of the header: 1 = f16, 2 = i8, 3 = i4
  int32_t layout;      // of the header: 0 = rows, 1 = planes
};

// Mask words of S [n, k] and the largest magnitude that is stored. Returns the flat position of the
// first value that is not finite, or -1.
SLC_ENCODER_EXPORT int64_t slc_encoder_survey(const float* S, const uint8_t* stored, int64_t n,
                                              int64_t k, uint64_t* masks, float* largest);

// The scales of these rows, f16 [rows, ⌈k / group⌉], and their part of the values section. Returns
// the bytes of that; no f16 value has scales.
SLC_ENCODER_EXPORT int64_t slc_encoder_values(const SlcRows* rows, uint16_t* scales,
                                              uint8_t* section);

// Adds to counts [4096] the stored values of these rows, each with the square of its scale: the
// histogram of codebook.py.
SLC_ENCODER_EXPORT void slc_encoder_histogram(const SlcRows* rows, double* counts);

// S[index[i]] = value[i], S being [numel]. Returns 0; -1 for an index of numel or more; -2 for a
// value that is not finite. What came before it is in place then.
SLC_ENCODER_EXPORT int32_t slc_encoder_scatter(const uint32_t* index, const float* value,
                                               int64_t count, int64_t numel, float* S);

// Adds to counts [numel / 64] how many indices lie in each 64 positions. Returns 0; -1 for an index
// of numel or more; -2 when there are more than 64, so that one of them came twice.
SLC_ENCODER_EXPORT int32_t slc_encoder_count(const uint32_t* index, int64_t count, int64_t numel,
                                             uint8_t* counts);

}  // extern "C"

#endif  // SLC_ENCODER_ENCODER_H_
