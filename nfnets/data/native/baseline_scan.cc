#include "baseline_scan.h"

#include <algorithm>
#include <cstdlib>

#include "dispatch.h"

namespace nfnets {

void start_bits(const std::uint8_t* at, Scan* scan) {
  scan->source.padding = 0;
  scan->bits = {at, &scan->source, 0, 0};
}

namespace {

constexpr int kMaxDc = 32767;

// At a restart: less than a byte must be left, and then the marker, next in its turn.
bool restart(Scan* scan) {
  Bits bits = scan->bits;
  refill_slowly(&bits);
  const int left = bits.count - scan->source.padding;
  if (left < 0 || left > 7) return false;
  const std::uint8_t *at = bits.at, *end = scan->source.end;
  while (end - at >= 2 && at[0] == 0xFF && at[1] == 0xFF) at++;  // fill bytes
  const int expected = 0xD0 + (scan->restarts & 7);
  if (end - at < 2 || at[0] != 0xFF || at[1] != expected) return false;
  start_bits(at + 2, scan);
  scan->restarts++;
  scan->until_restart = scan->restart_interval;
  std::fill_n(scan->previous, 3, 0);
  return true;
}

// Adds the difference in a block's DC coefficient. False on an error.
NFNETS_INLINE bool read_dc(Scan* scan, const BlockPlan& plan, Bits* bits, int* dc) {
  int difference = 0;
  if (!decode_dc(bits, *plan.dc, &difference)) return false;
  *dc = scan->previous[plan.component] += difference;
  return static_cast<unsigned>(*dc + kMaxDc) <= 2 * kMaxDc;
}

// Decodes block i of an MCU, all but the transform.
NFNETS_INLINE bool decode_block(Scan* scan, int i, Bits* bits) {
  std::int16_t* coefficients = scan->coefficients[i].at;
  int dc = 0;
  if (!read_dc(scan, scan->block[i], bits, &dc)) return false;
  scan->last_k[i] = decode_ac(bits, *scan->block[i].ac, coefficients);
  coefficients[0] = static_cast<std::int16_t>(dc);
  return scan->last_k[i] >= 0;
}

NFNETS_INLINE void transform_block(Scan* scan, int i, int mcu) {
  const BlockPlan& plan = scan->block[i];
  const Block& quant = scan->quant[plan.component];
  const std::size_t pitch = scan->pitch[plan.component];
  std::uint8_t* samples = plan.samples + static_cast<std::size_t>(mcu) * plan.step;
  if (scan->last_k[i] == 0) {
    const int dc = scan->coefficients[i].at[0] * quant.at[0];
    scan->coefficients[i].at[0] = 0;
    scan->largest[0] = std::max(scan->largest[0], std::abs(dc));
    fill_block(dc, samples, pitch);
  } else {
    scan->inverse_dct(&scan->coefficients[i], quant, samples, pitch, scan->largest);
  }
}

// Each block is transformed after the next has been decoded: wide loads would have to
// wait for the stores of single coefficients before.
NFNETS_INLINE bool decode_mcu(Scan* scan, int mcu, Bits* bits) {
  for (int i = 0; i < scan->blocks; i++) {
    if (!decode_block(scan, i, bits)) return false;
    if (i > 0) transform_block(scan, i - 1, mcu);
  }
  transform_block(scan, scan->blocks - 1, mcu);
  return true;
}

NFNETS_INLINE bool walk_mcu(Scan* scan, Bits* bits) {
  for (int i = 0; i < scan->blocks; i++) {
    int dc = 0;
    if (!read_dc(scan, scan->block[i], bits, &dc)) return false;
    if (!walk_ac(bits, *scan->block[i].ac)) return false;
  }
  return true;
}

// Counts `mcus` down to the next restart, or does it.
NFNETS_INLINE bool count_down(Scan* scan, Bits* bits) {
  if (scan->until_restart == 0) {
    scan->bits = *bits;
    if (!restart(scan)) return false;
    *bits = scan->bits;
  }
  scan->until_restart--;
  return true;
}

NFNETS_INLINE void read_mcus(Scan* scan, bool is_above, bool* is_good) {
  *is_good = false;
  const int first = is_above ? scan->mcus_wide : scan->first;
  Bits bits = scan->bits;  // in registers
  for (int mcu = 0; mcu < scan->mcus_wide; mcu++) {
    if (scan->restart_interval != 0 && !count_down(scan, &bits)) return;
    const bool is_inside = mcu >= first && mcu < scan->last;
    if (!(is_inside ? decode_mcu(scan, mcu - first, &bits) : walk_mcu(scan, &bits))) return;
  }
  scan->bits = bits;
  const int largest = *std::max_element(scan->largest, scan->largest + 8);
  *is_good = !bits.are_overdrawn() && largest <= kMaxColumn;
}

}  // namespace

NFNETS_DISPATCH(read_mcus, (Scan* scan, bool is_above, bool* is_good),
                (scan, is_above, is_good))

bool is_at_end(Scan* scan) {
  refill(&scan->bits);
  const std::uint8_t *at = scan->bits.at, *end = scan->source.end;
  while (end - at > 2 && at[0] == 0xFF && at[1] == 0xFF) at++;  // fill bytes
  const bool is_marked = end - at >= 2 && at[0] == 0xFF && at[1] == 0xD9;
  return is_marked && scan->bits.count - scan->source.padding < 8;
}

}  // namespace nfnets
