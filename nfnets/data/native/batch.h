// A whole batch at once, on native threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "operations.h"

namespace nfnets {

// A JPEG file, or, where height is not 0, size bytes of H x W x 3 pixels.
struct Picture {
  const std::uint8_t* data;
  std::size_t size;
  int height, width;
};

// What is cut out of a picture; the layout is that of CROP in native/jobs.py.
struct Crop {
  std::int32_t picture;
  std::int32_t denominator;  // the picture is decoded at 1 / denominator of its size
  std::int32_t top, left, height, width;  // at full size
  std::int32_t kernel;
  std::int32_t flip;
  std::int32_t shift_y, shift_x;  // the result is moved, and zeros move in
};

enum class Mix : std::int32_t { kNone = 0, kMixup = 1, kCutmix = 2 };

// One image of the batch; the layout is that of ROW in native/jobs.py.
struct Row {
  std::int32_t slot;          // place in the batch
  std::int32_t first, second;  // crops; the second only where two are mixed
  std::int32_t mix;
  float ratio;                // mixup: weight of the first
  std::int32_t top, bottom, left, right;  // cutmix: where the first shows
  std::int32_t truncate;      // fractions are dropped rather than rounded
  std::int32_t operations_begin, operations_end;
};

struct Batch {
  std::vector<Picture> pictures;
  const Crop* crops;
  const Row* rows;
  const Operation* operations;
  const std::uint8_t* tables;  // [num_tables, 256, 3]
  std::size_t num_crops, num_rows, num_operations, num_tables;
  std::size_t num_slots;  // B
  int size;               // S
  std::uint8_t* images;   // [B, S, S, 3]
  std::int32_t* damaged;  // per picture: set to 1 where it cannot be decoded
};

// What is wrong with the numbers of a batch, which come from Python; null if nothing is.
const char* find_mistake(const Batch& batch);

// Makes every row. Neighbouring rows of one picture share its decode. The result does
// not depend on the number of threads.
void make_batch(const Batch& batch, int threads);

}  // namespace nfnets
