// The accurate integer inverse DCT of libjpeg (JDCT_ISLOW), to the same bytes.
#pragma once

#include <cstddef>
#include <cstdint>

namespace nfnets {

// Coefficients and quantization steps, in the order of place() (baseline_tables.h).
struct alignas(32) Block {
  std::int16_t at[64];
  std::int16_t beyond[16];  // where decoders put what comes after the last coefficient
};

// libjpeg's vector code adds and stores 16-bit numbers, and wraps around or saturates
// where its scalar code does not. Nothing does where the magnitudes of each column of a
// block sum to this at most: the first pass multiplies by up to 4 * 1.39, and the second
// adds pairs of that, below 2^15. Pictures stay below, blocks beyond are not decoded.
constexpr std::int32_t kMaxColumn = 2900;

// Dequantizes `block`, sets it to 0, and writes 8 x 8 samples. Raises `largest`, of the
// eight columns, to the sum of their magnitudes.
using InverseDct = void (*)(Block* block, const Block& quant, std::uint8_t* samples,
                            std::size_t pitch, std::int32_t* largest);
InverseDct pick_inverse_dct();

// The same of a block with nothing but a DC coefficient, dequantized.
void fill_block(int dc, std::uint8_t* samples, std::size_t pitch);

}  // namespace nfnets
