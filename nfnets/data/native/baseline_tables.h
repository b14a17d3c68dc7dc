// Huffman tables that look ahead: whole symbols with their extra bits, two or more at once.
#pragma once

#include <array>
#include <cstdint>

#include "baseline_header.h"

namespace nfnets {

// Bits that index the tables. A refill gives 56: enough for a DC look-up, and then four of
// AC symbols or three that only go past them.
constexpr int kDcBits = 9;
constexpr int kAcBits = 10;
constexpr int kLookups = 4;
constexpr int kMaxWalk = 15;  // bits that one look-up may go past
constexpr int kWalkLookups = 3;
static_assert(kDcBits + kLookups * kAcBits <= 56);
static_assert(kDcBits + kWalkLookups * kMaxWalk <= 56);

// Positions in a block are counted in zigzag order, k = 0 to 63. A symbol advances k; the
// end of the block advances it by kEndOfBlock. With k < 63 before, bit 6 of the sum is set
// exactly where the symbols run over the end of the block: at 64 to 127 without an end,
// and from 192 with one, which includes an end after k = 63, where there is none.
constexpr int kEndOfBlock = 129;
constexpr int kOverrun = 64;

// A symbol and its extra bits.
struct Symbol {
  std::int16_t value;
  std::uint8_t advance;  // kOverrun where the bits looked at are too few
  std::uint8_t length;   // bits in all; 0 where too few
};

// One or two of them: where there is one, the second repeats it and advances by 0; where
// there is none, first() is a CodeTable entry. One 64-bit number, with the length in the
// lowest bits, where a shift can take it from.
struct Pair {
  std::uint64_t packed;

  int length() const { return packed & 255; }
  int first_advance() const { return packed >> 8 & 255; }
  int second_advance() const { return packed >> 16 & 255; }
  std::int16_t first() const { return static_cast<std::int16_t>(packed >> 32); }
  std::int16_t second() const { return static_cast<std::int16_t>(packed >> 48); }
};

// The codes alone.
struct CodeTable {
  std::uint16_t lookup[1 << kAcBits];  // length << 8 | symbol; 0 for longer codes
  std::int32_t last[17];                 // last code of each length, or -1
  std::int32_t offset[17];               // index of a code's value, minus the code
  std::uint8_t values[256];
};

struct DcTable {
  Symbol lookup[1 << kDcBits];  // advance means nothing
  CodeTable codes;
};

struct AcTable {
  Pair pairs[1 << kAcBits];
  std::uint16_t walk[1 << kAcBits];  // advance << 8 | length of up to three symbols
  CodeTable codes;
};

// False where libjpeg rejects the table.
bool make_dc_table(const HuffmanSpec& spec, DcTable* table);
bool make_ac_table(const HuffmanSpec& spec, AcTable* table);

// The value of `size` extra bits (T.81, F.2.2.1), size 0 to 15.
constexpr int extend(int bits, int size) {
  return bits < (1 << size >> 1) ? bits - (1 << size) + 1 : bits;
}

// Where blocks keep the coefficient of row i and column j: rows 0 and 4, 1 and 5, ...
// alternate, which is the order that pairs of products are summed in (baseline_idct.h).
constexpr int place(int row, int column) {
  return (row & 3) * 16 + column * 2 + (row >> 2);
}

// That, by k. Everything beyond k = 63 has its place behind the block.
constexpr std::array<std::uint8_t, 256> make_places() {
  std::array<std::uint8_t, 256> places = {};
  int k = 0;
  for (int diagonal = 0; diagonal < 15; diagonal++) {
    for (int i = 0; i <= diagonal; i++) {
      const int row = diagonal % 2 ? i : diagonal - i, column = diagonal - row;
      if (row < 8 && column < 8) places[k++] = place(row, column);
    }
  }
  for (; k < 256; k++) places[k] = 64;
  return places;
}
constexpr std::array<std::uint8_t, 256> kPlaces = make_places();

}  // namespace nfnets
