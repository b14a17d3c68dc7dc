// The operations of RandAugment and AutoAugment that need more than a table.
#pragma once

#include <cstdint>

#include "image.h"

namespace nfnets {

// The numbers are part of the interface with Python (native/jobs.py).
enum class Code : std::int32_t {
  kTable = 0,        // values[0]: row of the tables
  kAutoContrastTf = 1,
  kAutoContrastPil = 2,
  kEqualize = 3,
  kColorTf = 4,      // values[0]: factor
  kColorPil = 5,
  kContrastPil = 6,  // values[0]: factor
  kSharpnessTf = 7,
  kSharpnessPil = 8,
  kWarpTf = 9,       // values[0..5]: source x, y of a result pixel; nearest
  kWarpPilBilinear = 10,
  kWarpPilBicubic = 11,
  kFill = 12,        // values[0..3]: top, bottom, left, right
};

struct Operation {
  std::int32_t code;
  std::int32_t fill;  // colour of holes, red + 256 green + 65536 blue
  double values[6];
};

// Applies an operation to the size x size x 3 bytes of `image`. `tables`: [n, 256, 3].
void apply(const Operation& operation, const std::uint8_t* tables, int size,
           std::uint8_t* image, Scratch* scratch);

}  // namespace nfnets
