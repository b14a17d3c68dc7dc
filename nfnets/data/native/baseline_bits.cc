#include "baseline_bits.h"

namespace nfnets {

void refill_slowly(Bits* bits) {
  const std::uint8_t* end = bits->source->end;
  while (bits->count < 56) {
    const bool is_end =
        bits->at == end ||
        (bits->at[0] == 0xFF && (end - bits->at < 2 || bits->at[1] != 0));
    if (is_end) {
      bits->source->padding += 8;
    } else {
      bits->bits |= static_cast<std::uint64_t>(bits->at[0]) << (56 - bits->count);
      bits->at += bits->at[0] == 0xFF ? 2 : 1;
    }
    bits->count += 8;
  }
}

unsigned find_long_code(std::uint64_t bits, const CodeTable& codes) {
  for (int length = kAcBits + 1; length <= 16; length++) {
    const int code = static_cast<int>(bits >> (64 - length));
    if (code <= codes.last[length]) {
      return length << 8 | codes.values[(code + codes.offset[length]) & 255];
    }
  }
  return 0;
}

}  // namespace nfnets
