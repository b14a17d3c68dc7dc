#include "baseline_colour.h"

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "dispatch.h"

#ifdef NFNETS_AVX2
#include <immintrin.h>
#endif

namespace nfnets {
namespace {

NFNETS_INLINE void sum_rows(const std::uint8_t* near, const std::uint8_t* far, int width,
                            std::uint16_t* sums) {
  for (int i = 0; i < width; i++) {
    sums[i] = static_cast<std::uint16_t>(3 * near[i] + far[i]);
  }
}

NFNETS_INLINE void upsample_row(const std::uint16_t* sums, int width, int even_bias,
                                int odd_bias, std::uint8_t* samples) {
  const std::uint16_t *left = sums - 1, *right = sums + 1;
  // An int counter may wrap around (Python builds with -fwrapv): no vector code then.
  for (std::size_t i = 0; i < static_cast<std::size_t>(width); i++) {
    const std::uint16_t near = 3 * sums[i];
    const std::uint16_t even = near + left[i] + even_bias;
    const std::uint16_t odd = near + right[i] + odd_bias;
    samples[2 * i] = static_cast<std::uint8_t>(even >> 4);
    samples[2 * i + 1] = static_cast<std::uint8_t>(odd >> 4);
  }
}

NFNETS_INLINE void expand_grey(const std::uint8_t* luma, int width, std::uint8_t* pixels) {
  for (int i = 0; i < width; i++) {
    const std::uint32_t pixel = luma[i] * 0x01010101u;
    std::memcpy(pixels + 4 * static_cast<std::size_t>(i), &pixel, 4);
  }
}

// JFIF's 1.402, 1.772, 0.34414 and 0.71414, rounded to 16 bits as in libjpeg.
constexpr int kRedCr = 91881, kBlueCb = 116130, kGreenCb = 22554, kGreenCr = 46802;

void convert_row_plain(const std::uint8_t* luma, const std::uint8_t* blue,
                       const std::uint8_t* red, int width, std::uint8_t* pixels) {
  constexpr int half = 1 << 15;
  const auto limit = [](int value) {
    return static_cast<std::uint8_t>(std::clamp(value, 0, 255));
  };
  for (int i = 0; i < width; i++, pixels += 4) {
    const int y = luma[i], cb = blue[i] - 128, cr = red[i] - 128;
    pixels[0] = limit(y + ((kRedCr * cr + half) >> 16));
    pixels[1] = limit(y + ((-kGreenCb * cb - kGreenCr * cr + half) >> 16));
    pixels[2] = limit(y + ((kBlueCb * cb + half) >> 16));
    pixels[3] = 255;
  }
}

#ifdef NFNETS_AVX2
#define NFNETS_AVX2_INLINE inline NFNETS_TARGET __attribute__((always_inline))

// (weight * chroma + 2^15) >> 16: of twice the chroma, the upper half of the product
// keeps one bit more, to round by.
NFNETS_AVX2_INLINE __m256i scale(__m256i chroma, int weight) {
  const __m256i twice = _mm256_add_epi16(chroma, chroma);
  const __m256i product =
      _mm256_mulhi_epi16(twice, _mm256_set1_epi16(static_cast<short>(weight)));
  return _mm256_srai_epi16(_mm256_add_epi16(product, _mm256_set1_epi16(1)), 1);
}

// (-kGreenCb * cb - kGreenCr * cr + 2^15) >> 16, where kGreenCr takes more than 16 bits.
NFNETS_AVX2_INLINE __m256i scale_green(__m256i cb, __m256i cr) {
  const int low = static_cast<int>(static_cast<unsigned>(65536 - kGreenCr) << 16);
  const __m256i weights = _mm256_set1_epi32(low | (-kGreenCb & 0xFFFF));
  const __m256i half = _mm256_set1_epi32(1 << 15);
  const __m256i lower = _mm256_madd_epi16(_mm256_unpacklo_epi16(cb, cr), weights);
  const __m256i upper = _mm256_madd_epi16(_mm256_unpackhi_epi16(cb, cr), weights);
  const __m256i sum =
      _mm256_packs_epi32(_mm256_srai_epi32(_mm256_add_epi32(lower, half), 16),
                         _mm256_srai_epi32(_mm256_add_epi32(upper, half), 16));
  return _mm256_sub_epi16(sum, cr);
}

NFNETS_AVX2_INLINE __m256i load_16(const std::uint8_t* at) {
  return _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
}

// 16 pixels of 16-bit channels.
NFNETS_AVX2_INLINE void store_16(__m256i r, __m256i g, __m256i b, std::uint8_t* pixels) {
  const __m256i rb = _mm256_packus_epi16(r, b);  // of each half: 8 red, 8 blue
  const __m256i gx = _mm256_packus_epi16(g, g);
  const __m256i rg = _mm256_unpacklo_epi8(rb, gx);
  const __m256i bx = _mm256_unpackhi_epi8(rb, gx);
  const __m256i first = _mm256_unpacklo_epi16(rg, bx);   // pixels 0 to 3, 8 to 11
  const __m256i second = _mm256_unpackhi_epi16(rg, bx);  // pixels 4 to 7, 12 to 15
  auto* out = reinterpret_cast<__m256i*>(pixels);
  _mm256_storeu_si256(out, _mm256_permute2x128_si256(first, second, 0x20));
  _mm256_storeu_si256(out + 1, _mm256_permute2x128_si256(first, second, 0x31));
}

NFNETS_TARGET void convert_row_avx2(const std::uint8_t* luma, const std::uint8_t* blue,
                                    const std::uint8_t* red, int width,
                                    std::uint8_t* pixels) {
  const __m256i center = _mm256_set1_epi16(128);
  for (int i = 0; i < width; i += 16, pixels += 64) {
    const __m256i y = load_16(luma + i);
    const __m256i cb = _mm256_sub_epi16(load_16(blue + i), center);
    const __m256i cr = _mm256_sub_epi16(load_16(red + i), center);
    // Weights beyond 16 bits, as whole parts of the chroma and the rest.
    const __m256i r = _mm256_add_epi16(cr, scale(cr, kRedCr - 65536));
    const __m256i b =
        _mm256_add_epi16(_mm256_add_epi16(cb, cb), scale(cb, kBlueCb - 2 * 65536));
    const __m256i g = scale_green(cb, cr);
    store_16(_mm256_add_epi16(y, r), _mm256_add_epi16(y, g), _mm256_add_epi16(y, b), pixels);
  }
}
#endif

}  // namespace

NFNETS_DISPATCH(sum_rows,
                (const std::uint8_t* near, const std::uint8_t* far, int width,
                 std::uint16_t* sums),
                (near, far, width, sums))
NFNETS_DISPATCH(upsample_row,
                (const std::uint16_t* sums, int width, int even_bias, int odd_bias,
                 std::uint8_t* samples),
                (sums, width, even_bias, odd_bias, samples))
NFNETS_DISPATCH(expand_grey, (const std::uint8_t* luma, int width, std::uint8_t* pixels),
                (luma, width, pixels))

void convert_row_fast(const std::uint8_t* luma, const std::uint8_t* blue,
                      const std::uint8_t* red, int width, std::uint8_t* pixels) {
#ifdef NFNETS_AVX2
  if (has_avx2()) return convert_row_avx2(luma, blue, red, width, pixels);
#endif
  convert_row_plain(luma, blue, red, width, pixels);
}

}  // namespace nfnets
