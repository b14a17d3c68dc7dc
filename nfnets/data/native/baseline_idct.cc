#include "baseline_idct.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "baseline_tables.h"
#include "dispatch.h"

#ifdef NFNETS_AVX2
#include <immintrin.h>
#endif

namespace nfnets {
namespace {

// The transform of Loeffler, Ligtenberg and Moschytz, multiplied out: libjpeg rounds its
// constants to 13 bits and nothing before the end of a pass, so that any order of the
// same sums gives the same. Its nine constants, by name, and the products' weights.
constexpr int kBits = 13;
constexpr int k0_298 = 2446, k0_390 = 3196, k0_541 = 4433, k0_765 = 6270, k0_899 = 7373,
              k1_175 = 9633, k1_501 = 12299, k1_847 = 15137, k1_961 = 16069,
              k2_053 = 16819, k2_562 = 20995, k3_072 = 25172;
constexpr int kOne = 1 << kBits;
// Even part: of inputs 2 and 6.
constexpr int kEven[2][2] = {{k0_541 + k0_765, k0_541}, {k0_541, k0_541 - k1_847}};
// Odd part: of inputs 1, 5, 3 and 7, to add to and subtract from the even rows 0 to 3.
constexpr int kZ3 = k1_175 - k1_961, kZ4 = k1_175 - k0_390;
constexpr int kOdd[4][4] = {
    {k1_501 - k0_899 + kZ4, kZ4, k1_175, k1_175 - k0_899},
    {k1_175, k1_175 - k2_562, k3_072 - k2_562 + kZ3, kZ3},
    {kZ4, k2_053 - k2_562 + kZ4, k1_175 - k2_562, k1_175},
    {k1_175 - k0_899, k1_175, kZ3, k0_298 - k0_899 + kZ3},
};
constexpr int kPass1Bits = 2;  // more precision between the passes
constexpr int kShift1 = kBits - kPass1Bits, kShift2 = kBits + kPass1Bits + 3;
constexpr int kCenter = 128;  // samples are unsigned

// One dimension: in and out are eight numbers, `stride` apart.
inline void transform(const std::int32_t* in, std::int32_t* out, int stride, int rounding,
                      int shift) {
  const auto x = [&](int i) { return in[i * stride]; };
  const std::int32_t sum = (x(0) + x(4)) * kOne + rounding;
  const std::int32_t difference = (x(0) - x(4)) * kOne + rounding;
  const std::int32_t high = x(2) * kEven[0][0] + x(6) * kEven[0][1];
  const std::int32_t low = x(2) * kEven[1][0] + x(6) * kEven[1][1];
  const std::int32_t even[4] = {sum + high, difference + low, difference - low, sum - high};
  std::int32_t odd[4];
  for (int i = 0; i < 4; i++) {
    odd[i] = x(1) * kOdd[i][0] + x(5) * kOdd[i][1] + x(3) * kOdd[i][2] + x(7) * kOdd[i][3];
  }
  for (int i = 0; i < 4; i++) {
    out[i * stride] = (even[i] + odd[i]) >> shift;
    out[(7 - i) * stride] = (even[i] - odd[i]) >> shift;
  }
}

void inverse_dct(Block* block, const Block& quant, std::uint8_t* samples, std::size_t pitch,
                 std::int32_t* largest) {
  std::int32_t numbers[64];
  bool is_safe = true;
  for (int column = 0; column < 8; column++) {
    std::int32_t total = 0;
    for (int row = 0; row < 8; row++) {
      const int i = place(row, column);
      numbers[row * 8 + column] = block->at[i] * quant.at[i];
      total += std::abs(numbers[row * 8 + column]);
    }
    largest[column] = std::max(largest[column], total);
    is_safe = is_safe && total <= kMaxColumn;
  }
  std::memset(block->at, 0, sizeof block->at);
  if (!is_safe) return;  // the sums could overflow
  for (int i = 0; i < 8; i++) {
    transform(numbers + i, numbers + i, 8, 1 << (kShift1 - 1), kShift1);
  }
  for (int i = 0; i < 8; i++) {
    std::int32_t* row = numbers + 8 * i;
    transform(row, row, 1, (1 << (kShift2 - 1)) + (kCenter << kShift2), kShift2);
    for (int j = 0; j < 8; j++) {
      samples[i * pitch + j] = static_cast<std::uint8_t>(std::clamp(row[j], 0, 255));
    }
  }
}

#ifdef NFNETS_AVX2
#define NFNETS_AVX2_INLINE inline NFNETS_TARGET __attribute__((always_inline))

// The weighted sums of eight pairs of inputs.
NFNETS_AVX2_INLINE __m256i madd(__m256i pairs, int first, int second) {
  const unsigned weights = (first & 0xFFFF) | static_cast<unsigned>(second) << 16;
  return _mm256_madd_epi16(pairs, _mm256_set1_epi32(static_cast<int>(weights)));
}

// 4 x (16 of 16 bits): pairs[j] has inputs j and j + 4 of eight columns, alternating.
// out[i] becomes output i of them.
template <int kShift>
NFNETS_AVX2_INLINE void transform(const __m256i* pairs, __m256i rounding, __m256i* out) {
  const __m256i sum = _mm256_add_epi32(madd(pairs[0], kOne, kOne), rounding);
  const __m256i difference = _mm256_add_epi32(madd(pairs[0], kOne, -kOne), rounding);
  const __m256i high = madd(pairs[2], kEven[0][0], kEven[0][1]);
  const __m256i low = madd(pairs[2], kEven[1][0], kEven[1][1]);
  const __m256i even[4] = {_mm256_add_epi32(sum, high), _mm256_add_epi32(difference, low),
                           _mm256_sub_epi32(difference, low), _mm256_sub_epi32(sum, high)};
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    const __m256i odd = _mm256_add_epi32(madd(pairs[1], kOdd[i][0], kOdd[i][1]),
                                         madd(pairs[3], kOdd[i][2], kOdd[i][3]));
    out[i] = _mm256_srai_epi32(_mm256_add_epi32(even[i], odd), kShift);
    out[7 - i] = _mm256_srai_epi32(_mm256_sub_epi32(even[i], odd), kShift);
  }
}

// rows[i] has eight numbers of row i. columns[j] becomes columns j, in the lower half, and
// j + 4, of 16 bits.
NFNETS_AVX2_INLINE void transpose(const __m256i* rows, __m256i* columns) {
  const __m256i r04 = _mm256_packs_epi32(rows[0], rows[4]);
  const __m256i r15 = _mm256_packs_epi32(rows[1], rows[5]);
  const __m256i r26 = _mm256_packs_epi32(rows[2], rows[6]);
  const __m256i r37 = _mm256_packs_epi32(rows[3], rows[7]);
  const __m256i r01 = _mm256_unpacklo_epi16(r04, r15);
  const __m256i r45 = _mm256_unpackhi_epi16(r04, r15);
  const __m256i r23 = _mm256_unpacklo_epi16(r26, r37);
  const __m256i r67 = _mm256_unpackhi_epi16(r26, r37);
  const __m256i left_upper = _mm256_unpacklo_epi32(r01, r23);
  const __m256i right_upper = _mm256_unpackhi_epi32(r01, r23);
  const __m256i left_lower = _mm256_unpacklo_epi32(r45, r67);
  const __m256i right_lower = _mm256_unpackhi_epi32(r45, r67);
  columns[0] = _mm256_unpacklo_epi64(left_upper, left_lower);
  columns[1] = _mm256_unpackhi_epi64(left_upper, left_lower);
  columns[2] = _mm256_unpacklo_epi64(right_upper, right_lower);
  columns[3] = _mm256_unpackhi_epi64(right_upper, right_lower);
}

// Lets the numbers of the two halves alternate.
NFNETS_AVX2_INLINE __m256i alternate(__m256i halves) {
  const __m256i order = _mm256_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14,
                                         15, 0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7,
                                         14, 15);
  return _mm256_shuffle_epi8(_mm256_permute4x64_epi64(halves, 0xD8), order);
}

// Dequantizes, clears, and keeps the largest sums of magnitudes.
NFNETS_AVX2_INLINE void load_block(Block* block, const Block& quant, std::int32_t* largest,
                                   __m256i* pairs) {
  __m256i total = _mm256_setzero_si256();
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    auto* coefficients = reinterpret_cast<__m256i*>(block->at + 16 * i);
    const __m256i level = _mm256_load_si256(coefficients);
    const __m256i step =
        _mm256_load_si256(reinterpret_cast<const __m256i*>(quant.at + 16 * i));
    _mm256_store_si256(coefficients, _mm256_setzero_si256());
    total = _mm256_add_epi32(total, _mm256_madd_epi16(_mm256_abs_epi16(level), step));
    pairs[i] = _mm256_mullo_epi16(level, step);
  }
  auto* sums = reinterpret_cast<__m256i*>(largest);
  _mm256_storeu_si256(sums, _mm256_max_epi32(_mm256_loadu_si256(sums), total));
}

NFNETS_AVX2_INLINE void store_rows(__m128i rows, std::uint8_t* first, std::uint8_t* second) {
  _mm_storel_epi64(reinterpret_cast<__m128i*>(first), rows);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(second), _mm_unpackhi_epi64(rows, rows));
}

NFNETS_TARGET void inverse_dct_avx2(Block* block, const Block& quant, std::uint8_t* samples,
                                    std::size_t pitch, std::int32_t* largest) {
  __m256i pairs[4], out[8], halves[4];
  load_block(block, quant, largest, pairs);
  transform<kShift1>(pairs, _mm256_set1_epi32(1 << (kShift1 - 1)), out);
  transpose(out, halves);
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) pairs[i] = alternate(halves[i]);
  transform<kShift2>(
      pairs, _mm256_set1_epi32((1 << (kShift2 - 1)) + (kCenter << kShift2)), out);
  transpose(out, halves);
  const __m256i r0145 = _mm256_packus_epi16(halves[0], halves[1]);
  const __m256i r2367 = _mm256_packus_epi16(halves[2], halves[3]);
  std::uint8_t* lower = samples + 4 * pitch;
  store_rows(_mm256_castsi256_si128(r0145), samples, samples + pitch);
  store_rows(_mm256_castsi256_si128(r2367), samples + 2 * pitch, samples + 3 * pitch);
  store_rows(_mm256_extracti128_si256(r0145, 1), lower, lower + pitch);
  store_rows(_mm256_extracti128_si256(r2367, 1), lower + 2 * pitch, lower + 3 * pitch);
}
#endif

}  // namespace

InverseDct pick_inverse_dct() {
#ifdef NFNETS_AVX2
  if (has_avx2()) return inverse_dct_avx2;
#endif
  return inverse_dct;
}

void fill_block(int dc, std::uint8_t* samples, std::size_t pitch) {
  const int value = std::clamp(((dc + 4) >> 3) + kCenter, 0, 255);
  const std::uint64_t eight = value * 0x0101010101010101u;
  for (int i = 0; i < 8; i++) std::memcpy(samples + i * pitch, &eight, 8);
}

}  // namespace nfnets
