#include "rows.h"

#include <algorithm>
#include <cmath>

#include "dispatch.h"

#ifdef NFNETS_AVX2
#include <immintrin.h>
#endif

namespace nfnets {
namespace {

constexpr int kBlock = 4;  // pixels that vector code packs at once

NFNETS_INLINE std::uint8_t to_byte(float value) {
  return static_cast<std::uint8_t>(std::min(std::max(value, 0.0f), 255.0f));
}

void pack_bytes_plain(const std::uint8_t* in, int pixels, std::uint8_t* out) {
  for (int i = 0; i < pixels; i++, in += 4, out += 3) {
    for (int c = 0; c < 3; c++) out[c] = in[c];
  }
}

void pack_plain(const float* in, int pixels, bool truncate, std::uint8_t* out) {
  for (int i = 0; i < pixels; i++, in += 4, out += 3) {
    for (int c = 0; c < 3; c++) out[c] = to_byte(truncate ? in[c] : std::nearbyint(in[c]));
  }
}

#ifdef NFNETS_AVX2

// Sixteen bytes are written of which twelve count, so the last pixels are left over.
int whole_blocks(int pixels) { return std::max(0, pixels - 2) / kBlock * kBlock; }

__attribute__((target("avx2"))) inline void store_three(__m128i pixels, std::uint8_t* out) {
  const __m128i order =
      _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm_shuffle_epi8(pixels, order));
}

__attribute__((target("avx2"))) int pack_bytes_avx2(const std::uint8_t* in, int pixels,
                                                    std::uint8_t* out) {
  const int whole = whole_blocks(pixels);
  for (int i = 0; i < whole; i += kBlock) {
    store_three(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in + 4 * i)), out + 3 * i);
  }
  return whole;
}

__attribute__((target("avx2"))) inline __m256i to_words(const float* in, bool truncate) {
  const __m256 value = _mm256_loadu_ps(in);
  return truncate ? _mm256_cvttps_epi32(value) : _mm256_cvtps_epi32(value);
}

__attribute__((target("avx2"))) int pack_avx2(const float* in, int pixels, bool truncate,
                                              std::uint8_t* out) {
  const int whole = whole_blocks(pixels);
  for (int i = 0; i < whole; i += kBlock) {
    // Saturating to bytes clips: no value is near the limits of 32 bits.
    const __m256i words = _mm256_permute4x64_epi64(
        _mm256_packs_epi32(to_words(in + 4 * i, truncate), to_words(in + 4 * i + 8, truncate)),
        0xD8);
    store_three(_mm_packus_epi16(_mm256_castsi256_si128(words),
                                 _mm256_extracti128_si256(words, 1)),
                out + 3 * i);
  }
  return whole;
}

#endif

void pack(const float* in, int pixels, bool truncate, std::uint8_t* out) {
  int done = 0;
#ifdef NFNETS_AVX2
  if (has_avx2()) done = pack_avx2(in, pixels, truncate, out);
#endif
  pack_plain(in + 4 * done, pixels - done, truncate, out + 3 * done);
}

}  // namespace

void pack_bytes(const std::uint8_t* in, int pixels, std::uint8_t* out) {
  int done = 0;
#ifdef NFNETS_AVX2
  if (has_avx2()) done = pack_bytes_avx2(in, pixels, out);
#endif
  pack_bytes_plain(in + 4 * done, pixels - done, out + 3 * done);
}

void pack_rounded(const float* in, int pixels, std::uint8_t* out) {
  pack(in, pixels, false, out);
}

void pack_truncated(const float* in, int pixels, std::uint8_t* out) {
  pack(in, pixels, true, out);
}

void pack_floats(const float* in, int pixels, float* out) {
  for (int i = 0; i < pixels; i++, in += 4, out += 3) {
    for (int c = 0; c < 3; c++) out[c] = in[c];
  }
}

}  // namespace nfnets
