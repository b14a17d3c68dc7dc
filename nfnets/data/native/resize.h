// The resize kernels of the papers' codes, from 4-byte pixels.
#pragma once

#include <cstdint>
#include <functional>

#include "image.h"

namespace nfnets {

// The numbers are part of the interface with Python (native/jobs.py).
enum class Kernel : std::int32_t {
  kBilinearAntialias = 0,  // Pillow's, to the bit
  kBicubicAntialias = 1,
  kBilinear = 2,  // TensorFlow's, to the bit of its floats
  kBicubic = 3,
  kBicubicTf1 = 4,
};

inline bool gives_bytes(Kernel kernel) { return kernel <= Kernel::kBicubicAntialias; }

// Where a left-right flip comes: it decides which weights meet which pixels.
enum class Flip : std::int32_t { kNone = 0, kLast = 1, kFirst = 2 };

// The part of a view that fills the result, in pixels; fractions are allowed.
struct Window {
  double top, left, height, width;
};

// Gets the rows of a result in order, `size` pixels of four values each.
template <typename Value>
using RowSink = std::function<void(int row, const Value* pixels)>;

// Pillow's resize to size x size.
void resize_bytes(const View& view, const Window& window, int size, bool cubic, Flip flip,
                  Scratch* scratch, const RowSink<std::uint8_t>& sink);

// TensorFlow's; the floats are neither rounded nor clipped.
void resize_floats(const View& view, int size, Kernel kernel, Flip flip, Scratch* scratch,
                   const RowSink<float>& sink);

}  // namespace nfnets
