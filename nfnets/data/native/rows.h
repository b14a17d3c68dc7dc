// Rows of a result on their way into a batch: 4 values a pixel -> 3.
#pragma once

#include <cstdint>

namespace nfnets {

void pack_bytes(const std::uint8_t* in, int pixels, std::uint8_t* out);

// Clips to 0..255, and rounds (ties to even) or truncates.
void pack_rounded(const float* in, int pixels, std::uint8_t* out);
void pack_truncated(const float* in, int pixels, std::uint8_t* out);

void pack_floats(const float* in, int pixels, float* out);

}  // namespace nfnets
