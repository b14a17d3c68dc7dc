// Geometric operations: each result pixel shows where a matrix says.
#pragma once

#include "operations.h"

namespace nfnets {

inline void put(std::uint8_t* out, std::int32_t colour) {
  out[0] = colour & 255;
  out[1] = colour >> 8 & 255;
  out[2] = colour >> 16 & 255;
}

// TensorFlow's: the nearest pixel, halves away from zero.
void warp_tf(const Operation& operation, int size, std::uint8_t* image, Scratch* scratch);

// Pillow's, to the bit of its doubles: bilinear or bicubic.
void warp_pil(const Operation& operation, int size, std::uint8_t* image, Scratch* scratch);

}  // namespace nfnets
