// The entropy-coded data of a baseline JPEG, by rows of MCUs (minimum coded units).
#pragma once

#include <cstddef>
#include <cstdint>

#include "baseline_bits.h"
#include "baseline_header.h"
#include "baseline_idct.h"

namespace nfnets {

// One block of an MCU.
struct BlockPlan {
  int component;
  const DcTable* dc;
  const AcTable* ac;
  std::uint8_t* samples;  // of the window's first MCU in the present row
  int step;               // from there to the next MCU
};

struct Scan {
  Source source;
  Bits bits;
  int mcus_wide;         // MCUs in a row
  int first, last;       // those of them to decode: from `first`, before `last`
  int restart_interval;  // in MCUs; 0 for none
  int until_restart;
  int restarts;          // so far
  int blocks;            // in an MCU
  BlockPlan block[6];
  std::size_t pitch[3];  // of the components' samples
  int previous[3];       // DC coefficients
  Block quant[3];
  Block coefficients[6];  // of an MCU; all 0 between MCUs
  int last_k[6];          // of each block: the k of its last one, or more
  std::int32_t largest[8];
  InverseDct inverse_dct;
};

// Begins to read bits at `at`.
void start_bits(const std::uint8_t* at, Scan* scan);

// Decodes the next row of MCUs into the planes, or where `is_above` the window goes past
// it. Sets *is_good to whether libjpeg would neither fail nor warn.
void read_mcus_fast(Scan* scan, bool is_above, bool* is_good);

// After the picture's last MCU: whether nothing but the padding of the last byte is left
// before the mark of the end. Where there is more, some MCU before was read wrongly.
bool is_at_end(Scan* scan);

}  // namespace nfnets
