#include "baseline_tables.h"

#include <algorithm>
#include <cstring>

namespace nfnets {
namespace {

// Numbers the codes (T.81, annex C).
bool make_codes(const HuffmanSpec& spec, CodeTable* table) {
  std::memset(table->lookup, 0, sizeof table->lookup);
  std::memcpy(table->values, spec.values, sizeof table->values);
  int code = 0, index = 0;
  for (int length = 1; length <= 16; length++) {
    table->offset[length] = index - code;
    const int count = spec.counts[length];
    if (code + count >= 1 << length) return false;  // no code is all ones
    for (int i = 0; i < count && length <= kAcBits; i++) {
      const int shift = kAcBits - length;
      const int entry = length << 8 | spec.values[index + i];
      std::fill_n(table->lookup + ((code + i) << shift), 1 << shift,
                  static_cast<std::uint16_t>(entry));
    }
    code += count;
    index += count;
    table->last[length] = count > 0 ? code - 1 : -1;
    code <<= 1;
  }
  return true;
}

// Fills a look-up by `bits` bits with the symbols that fit. AC symbols are run << 4 | size.
void make_symbols(const HuffmanSpec& spec, bool is_ac, int bits, Symbol* table) {
  std::fill_n(table, 1 << bits, Symbol{0, kOverrun, 0});
  const std::uint8_t* value = spec.values;
  int code = 0;
  for (int length = 1; length <= bits; length++, code <<= 1) {
    for (int i = 0; i < spec.counts[length]; i++, code++, value++) {
      const int size = *value & 15, total = length + size, run = *value >> 4;
      if (total > bits) continue;
      const bool is_end = is_ac && size == 0 && run != 15;
      const int advance = is_end ? kEndOfBlock : run + 1, shift = bits - total;
      for (int extra = 0; extra < 1 << size; extra++) {
        const Symbol symbol{static_cast<std::int16_t>(extend(extra, size)),
                            static_cast<std::uint8_t>(advance),
                            static_cast<std::uint8_t>(total)};
        std::fill_n(table + (((code << size) + extra) << shift), 1 << shift, symbol);
      }
    }
  }
}

void make_pairs(const Symbol* symbols, const CodeTable& codes, Pair* pairs) {
  for (int i = 0; i < 1 << kAcBits; i++) {
    Symbol first = symbols[i];
    if (first.length == 0) {
      first.value = static_cast<std::int16_t>(codes.lookup[i]);
    }
    Symbol second = {first.value, 0, 0};
    if (first.length != 0 && first.advance != kEndOfBlock) {
      const Symbol next = symbols[(i << first.length) & ((1 << kAcBits) - 1)];
      const bool fits = (next.length != 0) & (first.length + next.length <= kAcBits);
      if (fits) second = next;
    }
    pairs[i].packed = static_cast<std::uint64_t>(first.length + second.length) |
                      static_cast<std::uint64_t>(first.advance) << 8 |
                      static_cast<std::uint64_t>(second.advance) << 16 |
                      static_cast<std::uint64_t>(std::uint16_t(first.value)) << 32 |
                      static_cast<std::uint64_t>(std::uint16_t(second.value)) << 48;
  }
}

// To go past a symbol takes its code alone: its extra bits may lie beyond those looked at.
// Three symbols at most, as more rarely fit.
void make_walk(const CodeTable& codes, std::uint16_t* walk) {
  for (int i = 0; i < 1 << kAcBits; i++) {
    int length = 0, advance = 0;
    for (int j = 0; j < 3; j++) {
      const int code = codes.lookup[(i << length) & ((1 << kAcBits) - 1)];
      const int bits = code >> 8, run = code >> 4 & 15, size = code & 15;
      const bool fits = (code != 0) & (length + bits <= kAcBits) &
                        (length + bits + size <= kMaxWalk) & (advance < kOverrun);
      const bool is_end = (size == 0) & (run != 15);
      const int step = is_end ? kEndOfBlock : run + 1;
      length += fits ? bits + size : 0;  // without branches
      advance += fits ? step : 0;
    }
    if (length == 0) advance = kOverrun;
    walk[i] = static_cast<std::uint16_t>(advance << 8 | length);
  }
}

}  // namespace

bool make_dc_table(const HuffmanSpec& spec, DcTable* table) {
  if (!make_codes(spec, &table->codes)) return false;
  int total = 0;
  for (int length = 1; length <= 16; length++) total += spec.counts[length];
  for (int i = 0; i < total; i++) {
    if (spec.values[i] > 15) return false;
  }
  make_symbols(spec, false, kDcBits, table->lookup);
  return true;
}

bool make_ac_table(const HuffmanSpec& spec, AcTable* table) {
  if (!make_codes(spec, &table->codes)) return false;
  Symbol symbols[1 << kAcBits];
  make_symbols(spec, true, kAcBits, symbols);
  make_pairs(symbols, table->codes, table->pairs);
  make_walk(table->codes, table->walk);
  return true;
}

}  // namespace nfnets
