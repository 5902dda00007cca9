// Where everything lies in the layout "tiles" of FORMAT.md, and what of it a lane of a warp holds.
// Plain integer functions, the same on the host, where tests run them, and on the device.
//
// A block is 16 rows by 64 columns of S: 32 words of 32 bits. A warp takes it in eight parts, each
// four words that all its lanes read, eight lanes a word: a lane has four columns of one row in a
// part. Two parts together are one A operand of mma.m16n8k16.
#pragma once

#include "device.h"

namespace slc::cuda {

constexpr int kBlockRows = 16;
constexpr int kBlockColumns = 64;
constexpr int kWords = 32;        // of a block, 32 bits each
constexpr int kParts = 8;         // of a block: two for each mma
constexpr int kStepColumns = 16;  // of an mma
constexpr int kUnitBytes = 16;    // values of a block begin at a multiple, and so are copied
constexpr int kMaskUnits = kWords * 4 / kUnitBytes;
constexpr int kScaleUnits = kBlockRows * 2 / kUnitBytes;

enum ValueType { kF16 = 1, kI8 = 2, kI4 = 3 };  // the codes of the header

// Most units that the values of a block take.
SLC_HOST_DEVICE constexpr int MaxUnits(int value_type) {
  return value_type == kF16 ? 128 : value_type == kI8 ? 64 : 32;
}

// Stored values in a unit.
SLC_HOST_DEVICE constexpr int ValuesInUnit(int value_type) { return 1024 / MaxUnits(value_type); }

// The word of a block that holds (row, column), both within the block.
SLC_HOST_DEVICE constexpr int WordOf(int row, int column) {
  return column / kStepColumns * 8 + row / 8 * 4 + row % 8 / 2;
}

// Its bit in that word.
SLC_HOST_DEVICE constexpr int BitOf(int row, int column) {
  return row % 2 * kStepColumns + column % kStepColumns;
}

// The inverses.
SLC_HOST_DEVICE constexpr int RowOf(int word, int bit) {
  return word % 8 / 4 * 8 + word % 4 * 2 + bit / kStepColumns;
}
SLC_HOST_DEVICE constexpr int ColumnOf(int word, int bit) {
  return word / 8 * kStepColumns + bit % kStepColumns;
}

// The first row of S's block whose weights a lane has in the A operands; the other is 8 below.
SLC_HOST_DEVICE constexpr int LaneRow(int lane) { return lane / 4; }

// The first of the four columns, within the 16 of an mma, that a lane has of A and of B.
SLC_HOST_DEVICE constexpr int LaneColumn(int lane) { return lane % 4 * 4; }

// Element i of a lane's C operand: the row of X among eight, and the row of S among 16.
SLC_HOST_DEVICE constexpr int SumRowOfX(int lane, int i) { return lane % 4 * 2 + i % 2; }
SLC_HOST_DEVICE constexpr int SumRowOfS(int lane, int i) { return LaneRow(lane) + i / 2 * 8; }

// The word that a lane reads in a part. Part 2·s + h is columns 16·s … of rows 8·h ….
SLC_HOST_DEVICE constexpr int LaneWord(int part, int lane) { return part * 4 + lane / 8; }

// Its first bit there: four bits are the lane's.
SLC_HOST_DEVICE constexpr int LaneBit(int lane) { return lane % 8 * 4; }

// How many values of the word lie before the lane's.
SLC_HOST_DEVICE inline int ValuesBefore(unsigned word, int lane) {
  return PopCount(word & ((1u << LaneBit(lane)) - 1u));
}

// Blocks that one of `splits` warps takes of a row tile: split, split + splits, … A row tile has
// fewer than 2^32 blocks, whose masks alone would be half a terabyte: 32 bits divide faster.
SLC_HOST_DEVICE constexpr long long BlocksOfSplit(long long blocks, int split, int splits) {
  return static_cast<unsigned>(blocks - split + splits - 1) / static_cast<unsigned>(splits);
}

// The group of a row's scales that a block belongs to.
SLC_HOST_DEVICE constexpr long long GroupOf(long long block, long long group_blocks) {
  return static_cast<unsigned>(block) / static_cast<unsigned>(group_blocks);
}

}  // namespace slc::cuda
