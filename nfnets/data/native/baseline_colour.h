// Smooth upsampling of chroma, and YCbCr to RGB, to the same bytes as libjpeg.
#pragma once

#include <cstdint>

namespace nfnets {

// Rows may be read and written up to this many samples or pixels beyond their end.
constexpr int kRowSlack = 32;

// sums[i] = 3 * near[i] + far[i], for i < width: upsampling along columns, times 4.
void sum_rows_fast(const std::uint8_t* near, const std::uint8_t* far, int width,
                   std::uint16_t* sums);

// Twice `width` samples from sums[-1] to sums[width], which sum_rows() made. Each is
// three parts of the nearer sum and one of the farther, times 16 in all.
void upsample_row_fast(const std::uint16_t* sums, int width, int even_bias, int odd_bias,
                       std::uint8_t* samples);

// Four bytes a pixel; the fourth is arbitrary.
void convert_row_fast(const std::uint8_t* luma, const std::uint8_t* blue,
                      const std::uint8_t* red, int width, std::uint8_t* pixels);
void expand_grey_fast(const std::uint8_t* luma, int width, std::uint8_t* pixels);

}  // namespace nfnets
