// The bits of entropy-coded JPEG data, and the symbols in them.
#pragma once

#include <cstdint>
#include <cstring>

#include "baseline_tables.h"
#include "dispatch.h"

namespace nfnets {

// Where they come from. Apart from Bits, whose fields are to stay in registers (and which
// compilers would pack into vectors in pairs, if alike).
struct Source {
  const std::uint8_t* end;
  int padding;  // zeros that stand for bits after the end or a marker
};

struct Bits {
  const std::uint8_t* at;  // the next byte to take
  Source* source;
  std::uint64_t bits;  // the first in the highest place
  int count;           // how many of them, with the padding

  bool are_overdrawn() const { return count < source->padding; }
};

NFNETS_INLINE std::uint64_t load_be64(const std::uint8_t* at) {
  std::uint64_t word;
  std::memcpy(&word, at, 8);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  word = __builtin_bswap64(word);
#endif
  return word;
}

// Byte by byte: there are 0xFF among the next bytes, which are followed by a stuffed 0
// or begin a marker; or there is the end.
void refill_slowly(Bits* bits);

// Makes them 56 or more.
NFNETS_INLINE void refill(Bits* bits) {
  if (__builtin_expect(bits->source->end - bits->at >= 8, 1)) {
    const std::uint64_t word = load_be64(bits->at), inverse = ~word;
    // A byte of `inverse` is 0: the borrow sets its highest bit.
    const bool has_ff = ((inverse - 0x0101010101010101u) & word & 0x8080808080808080u) != 0;
    if (__builtin_expect(!has_ff, 1)) {
      // Bits beyond `count` are set as well, to what the next call sets them to.
      bits->bits |= word >> bits->count;
      bits->at += (63 - bits->count) >> 3;
      bits->count |= 56;
      return;
    }
  }
  Bits copy = *bits;  // whose address may be taken: the others stay in registers
  refill_slowly(&copy);
  *bits = copy;
}

NFNETS_INLINE void consume(Bits* bits, unsigned length) {
  bits->bits <<= length;
  bits->count -= length;
}

// The next code, as length << 8 | symbol; 0 where there is no such code.
unsigned find_long_code(std::uint64_t bits, const CodeTable& codes);

NFNETS_INLINE unsigned find_code(std::uint64_t bits, const CodeTable& codes) {
  const unsigned code = codes.lookup[bits >> (64 - kAcBits)];
  return __builtin_expect(code != 0, 1) ? code : find_long_code(bits, codes);
}

// The value of the next bits, `size` of them.
NFNETS_INLINE int take(Bits* bits, unsigned size) {
  const int value = static_cast<int>(bits->bits >> 1 >> (63 - size));
  consume(bits, size);
  return extend(value, size);
}

// The difference of two DC coefficients. False for a code that there is not. Leaves
// enough bits for the first look-ups of AC symbols.
NFNETS_INLINE bool decode_dc(Bits* bits, const DcTable& table, int* difference) {
  refill(bits);
  const Symbol symbol = table.lookup[bits->bits >> (64 - kDcBits)];
  if (__builtin_expect(symbol.length != 0, 1)) {
    consume(bits, symbol.length);
    *difference = symbol.value;
    return true;
  }
  const unsigned code = find_code(bits->bits, table.codes);
  consume(bits, code >> 8);
  *difference = take(bits, code & 15);
  refill(bits);
  return code != 0;
}

// Takes the AC symbol of a code, and counts it in *k. False on an error.
NFNETS_INLINE bool take_symbol(Bits* bits, unsigned code, unsigned* k, int* value) {
  const unsigned run = code >> 4 & 15, size = code & 15;
  consume(bits, code >> 8);
  *value = take(bits, size);
  if (size == 0 && run != 15) {
    *k += kEndOfBlock;
    return code != 0;
  }
  *k += run + 1;
  return *k <= 63;
}

// The AC coefficients of a block, whose places must be 0. Returns the k of the last one
// (or more), or -1 on an error.
NFNETS_INLINE int decode_ac(Bits* bits, const AcTable& table, std::int16_t* block) {
  unsigned k = 0;
  while (true) {
    Pair pair{0};
    bool is_long = false;
#pragma GCC unroll 4
    for (int i = 0; i < kLookups; i++) {
      pair = table.pairs[bits->bits >> (64 - kAcBits)];
      const unsigned first = k + pair.first_advance();
      const unsigned second = first + pair.second_advance();
      is_long = (second & kOverrun) != 0;
      if (__builtin_expect(is_long, 0)) break;
      consume(bits, pair.packed & 255);
      block[kPlaces[first]] = pair.first();
      block[kPlaces[second]] = pair.second();
      k = second;
      if (k >= 63) return k == 63 ? 63 : k - kEndOfBlock;
    }
    if (is_long) {
      int value = 0;
      refill(bits);
      unsigned code = pair.length() == 0 ? pair.first() : 0;
      if (code == 0) code = find_code(bits->bits, table.codes);
      if (!take_symbol(bits, code, &k, &value)) return -1;
      block[kPlaces[k]] = static_cast<std::int16_t>(value);
      if (k >= 63) return k == 63 ? 63 : k - kEndOfBlock;
    }
    refill(bits);
  }
}

// Goes past the AC coefficients of a block. False on an error.
NFNETS_INLINE bool walk_ac(Bits* bits, const AcTable& table) {
  unsigned k = 0;
  while (true) {
    bool is_long = false;
#pragma GCC unroll 3
    for (int i = 0; i < kWalkLookups; i++) {
      const unsigned entry = table.walk[bits->bits >> (64 - kAcBits)];
      const unsigned next = k + (entry >> 8);
      is_long = (next & kOverrun) != 0;
      if (__builtin_expect(is_long, 0)) break;
      consume(bits, entry & 255);
      k = next;
      if (k >= 63) return true;
    }
    if (is_long) {
      int value = 0;
      refill(bits);
      const unsigned code = find_code(bits->bits, table.codes);
      if (!take_symbol(bits, code, &k, &value)) return false;
      if (k >= 63) return true;
    }
    refill(bits);
  }
}

}  // namespace nfnets
