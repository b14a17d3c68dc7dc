// Pillow's antialiased resize in its own integer arithmetic (22 bits of fraction, one
// rounding to bytes per axis), so that the result is Pillow's to the bit.
//
// A weight of 22 bits does not fit the 16-bit multipliers of vector units: it is split
// in an upper and a lower half, which are summed apart.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "dispatch.h"
#include "resize.h"

#ifdef NFNETS_AVX2
#include <immintrin.h>
#endif

namespace nfnets {
namespace {

constexpr int kFractionBits = 32 - 8 - 2;
constexpr int kLowBits = 11;
constexpr int kRound = 1 << (kFractionBits - 1);
constexpr int kGroup = 4;  // taps are padded to a multiple of this with zeros

struct Taps {
  std::vector<int> first;             // of the source pixels of each result pixel
  std::vector<int> count;             // of taps, without padding
  std::vector<std::int32_t> weights;  // [result pixels, stride]
  std::vector<std::int16_t> high, low;  // halves of the weights, likewise
  int stride;
};

double filter(double x, bool cubic) {
  x = std::fabs(x);
  if (!cubic) return x < 1 ? 1 - x : 0;
  constexpr double a = -0.5;
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

void make_taps(int length, double start, double extent, int size, bool cubic, Taps* taps) {
  const double scale = extent / size, widening = std::max(scale, 1.0);
  const double support = (cubic ? 2.0 : 1.0) * widening, inverse = 1.0 / widening;
  const int most = static_cast<int>(std::ceil(support)) * 2 + 1;
  taps->stride = (most + kGroup - 1) / kGroup * kGroup;
  taps->first.resize(size);
  taps->count.resize(size);
  taps->weights.assign(static_cast<std::size_t>(size) * taps->stride, 0);
  std::vector<double> real(most);
  for (int i = 0; i < size; i++) {
    const double centre = start + (i + 0.5) * scale;
    const int first = std::max(0, static_cast<int>(centre - support + 0.5));
    const int last = std::min(length, static_cast<int>(centre + support + 0.5));
    double total = 0;
    for (int k = 0; k < last - first; k++) {
      real[k] = filter((k + first - centre + 0.5) * inverse, cubic);
      total += real[k];
    }
    taps->first[i] = first;
    taps->count[i] = last - first;
    for (int k = 0; k < last - first; k++) {
      const double weight = (total != 0 ? real[k] / total : real[k]) * (1 << kFractionBits);
      taps->weights[i * taps->stride + k] = static_cast<int>(weight + (weight < 0 ? -0.5 : 0.5));
    }
  }
  taps->high.resize(taps->weights.size());
  taps->low.resize(taps->weights.size());
  for (std::size_t k = 0; k < taps->weights.size(); k++) {
    taps->high[k] = static_cast<std::int16_t>(taps->weights[k] >> kLowBits);
    taps->low[k] = static_cast<std::int16_t>(taps->weights[k] & ((1 << kLowBits) - 1));
  }
}

inline std::uint8_t to_byte(int sum) {
  return static_cast<std::uint8_t>(std::clamp(sum >> kFractionBits, 0, 255));
}

void along_rows_plain(const View& view, const Taps& taps, int size, std::uint8_t* out) {
  for (int y = 0; y < view.height; y++) {
    const std::uint8_t* row = view.pixels + y * view.pitch;
    for (int x = 0; x < size; x++, out += 4) {
      const std::int32_t* weights = &taps.weights[x * taps.stride];
      const std::uint8_t* pixel = row + 4 * taps.first[x];
      int sums[4] = {kRound, kRound, kRound, kRound};
      for (int k = 0; k < taps.count[x]; k++, pixel += 4) {
        for (int c = 0; c < 4; c++) sums[c] += pixel[c] * weights[k];
      }
      for (int c = 0; c < 4; c++) out[c] = to_byte(sums[c]);
    }
  }
}

// Row y of the result, from the rows of `pixels`, `length` bytes each.
void along_columns_plain(const std::uint8_t* pixels, const Taps& taps, int y, int length,
                         std::vector<std::int32_t>* sums, std::uint8_t* out) {
  const std::uint8_t* source = pixels + static_cast<std::size_t>(taps.first[y]) * length;
  sums->assign(length, kRound);
  for (int k = 0; k < taps.count[y]; k++, source += length) {
    const std::int32_t weight = taps.weights[y * taps.stride + k];
    for (int i = 0; i < length; i++) (*sums)[i] += source[i] * weight;
  }
  for (int i = 0; i < length; i++) out[i] = to_byte((*sums)[i]);
}

#ifdef NFNETS_AVX2

// Two weights of 16 bits side by side, as the multiply-add of neighbours wants them,
// eight times.
__attribute__((target("avx2"))) inline __m256i two_weights(const std::int16_t* weights) {
  int both;
  std::memcpy(&both, weights, sizeof(both));
  return _mm256_set1_epi32(both);
}

// Four weights: the first two four times, then the other two four times.
__attribute__((target("avx2"))) inline __m256i four_weights(const std::int16_t* weights) {
  std::int64_t all;
  std::memcpy(&all, weights, sizeof(all));
  return _mm256_shuffle_epi8(
      _mm256_set1_epi64x(all),
      _mm256_setr_epi8(0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6,
                       7, 4, 5, 6, 7, 4, 5, 6, 7));
}

__attribute__((target("avx2"))) inline __m256i join_halves(__m256i high, __m256i low) {
  const __m256i sum = _mm256_add_epi32(_mm256_slli_epi32(high, kLowBits), low);
  return _mm256_srai_epi32(_mm256_add_epi32(sum, _mm256_set1_epi32(kRound)), kFractionBits);
}

// Sums of one row of pixels, weighted by the halves of the weights; each lane of 128 bits
// holds a part of the four channels' sums.
struct Halves {
  __m256i high, low;
};

// Bytes of two neighbours side by side, per channel: r0 r1 g0 g1 b0 b1 x0 x1.
__attribute__((target("avx2"))) inline void add_group(const std::uint8_t* pixels,
                                                      __m256i high_weights,
                                                      __m256i low_weights, Halves* sums) {
  const __m128i neighbours =
      _mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
  const __m256i values = _mm256_cvtepu8_epi16(
      _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(pixels)), neighbours));
  sums->high = _mm256_add_epi32(sums->high, _mm256_madd_epi16(values, high_weights));
  sums->low = _mm256_add_epi32(sums->low, _mm256_madd_epi16(values, low_weights));
}

// The whole sums of row a in the lower lane, of row b in the upper.
__attribute__((target("avx2"))) inline __m256i add_lanes(__m256i a, __m256i b) {
  return _mm256_add_epi32(_mm256_permute2x128_si256(a, b, 0x20),
                          _mm256_permute2x128_si256(a, b, 0x31));
}

// Two rows at a time, which share the weights. The last may be its own neighbour.
__attribute__((target("avx2"))) void along_rows_avx2(const View& view, const Taps& taps,
                                                     int size, std::uint8_t* out) {
  const std::size_t length = static_cast<std::size_t>(size) * 4;
  for (int y = 0; y < view.height; y += 2) {
    const int next = std::min(y + 1, view.height - 1);
    const std::uint8_t* row_a = view.pixels + y * view.pitch;
    const std::uint8_t* row_b = view.pixels + next * view.pitch;
    std::uint8_t *out_a = out + y * length, *out_b = out + next * length;
    for (int x = 0; x < size; x++) {
      const std::size_t weights = static_cast<std::size_t>(x) * taps.stride;
      const std::size_t at = static_cast<std::size_t>(taps.first[x]) * 4;
      Halves a = {_mm256_setzero_si256(), _mm256_setzero_si256()}, b = a;
      for (int k = 0; k < taps.count[x]; k += kGroup) {
        const __m256i high = four_weights(&taps.high[weights + k]);
        const __m256i low = four_weights(&taps.low[weights + k]);
        add_group(row_a + at + 4 * k, high, low, &a);
        add_group(row_b + at + 4 * k, high, low, &b);
      }
      const __m256i sums = join_halves(add_lanes(a.high, b.high), add_lanes(a.low, b.low));
      const __m256i words = _mm256_packs_epi32(sums, sums);
      const __m256i bytes = _mm256_packus_epi16(words, words);
      const int pixel_a = _mm256_extract_epi32(bytes, 0);
      const int pixel_b = _mm256_extract_epi32(bytes, 4);
      std::memcpy(out_a + 4 * x, &pixel_a, 4);
      std::memcpy(out_b + 4 * x, &pixel_b, 4);
    }
  }
}

// Sixteen bytes of one result row; `source` is the first of the rows, `step` apart.
__attribute__((target("avx2"))) inline __m128i column_block(const std::uint8_t* source,
                                                            std::size_t step, int count,
                                                            const std::int16_t* high_weights,
                                                            const std::int16_t* low_weights) {
  __m256i high[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
  __m256i low[2] = {high[0], high[0]};
  for (int k = 0; k < count; k += 2) {
    const std::uint8_t* at = source + k * step;
    // The padding tap weighs nothing: it may be any row that is there.
    const std::uint8_t* next = k + 1 < count ? at + step : at;
    const __m128i a = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
    const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(next));
    const __m256i w_high = two_weights(high_weights + k);
    const __m256i w_low = two_weights(low_weights + k);
    const __m256i values[2] = {_mm256_cvtepu8_epi16(_mm_unpacklo_epi8(a, b)),
                               _mm256_cvtepu8_epi16(_mm_unpackhi_epi8(a, b))};
    for (int half = 0; half < 2; half++) {
      high[half] = _mm256_add_epi32(high[half], _mm256_madd_epi16(values[half], w_high));
      low[half] = _mm256_add_epi32(low[half], _mm256_madd_epi16(values[half], w_low));
    }
  }
  const __m256i words = _mm256_permute4x64_epi64(
      _mm256_packs_epi32(join_halves(high[0], low[0]), join_halves(high[1], low[1])), 0xD8);
  return _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}

__attribute__((target("avx2"))) void along_columns_avx2(const std::uint8_t* pixels,
                                                        const Taps& taps, int y,
                                                        std::size_t length,
                                                        std::uint8_t* out) {
  const std::uint8_t* source = pixels + taps.first[y] * length;
  const std::int16_t* high = &taps.high[y * taps.stride];
  const std::int16_t* low = &taps.low[y * taps.stride];
  for (std::size_t i = 0; i < length; i += 16) {  // the last may write into the slack
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i),
                     column_block(source + i, length, taps.count[y], high, low));
  }
}

#endif  // NFNETS_AVX2

void along_rows(const View& view, const Taps& taps, int size, std::uint8_t* out) {
#ifdef NFNETS_AVX2
  if (has_avx2()) return along_rows_avx2(view, taps, size, out);
#endif
  along_rows_plain(view, taps, size, out);
}

void along_columns(const Taps& taps, int y, int length, Scratch* scratch) {
  const std::uint8_t* pixels = scratch->columns.data();
#ifdef NFNETS_AVX2
  if (has_avx2()) return along_columns_avx2(pixels, taps, y, length, scratch->row.data());
#endif
  along_columns_plain(pixels, taps, y, length, &scratch->sums, scratch->row.data());
}

// Puts the taps of the last result pixel first, and so on.
void reverse(Taps* taps) {
  std::reverse(taps->first.begin(), taps->first.end());
  std::reverse(taps->count.begin(), taps->count.end());
  const int size = static_cast<int>(taps->first.size());
  for (int i = 0; i < size / 2; i++) {
    for (int k = 0; k < taps->stride; k++) {
      const int a = i * taps->stride + k, b = (size - 1 - i) * taps->stride + k;
      std::swap(taps->weights[a], taps->weights[b]);
      std::swap(taps->high[a], taps->high[b]);
      std::swap(taps->low[a], taps->low[b]);
    }
  }
}

}  // namespace

// Pillow's codes flip last; a mirrored view would meet other roundings.
void resize_bytes(const View& view, const Window& window, int size, bool cubic, Flip flip,
                  Scratch* scratch, const RowSink<std::uint8_t>& sink) {
  static thread_local Taps kept[2];
  Taps &across = kept[0], &down = kept[1];
  make_taps(view.width, window.left, window.width, size, cubic, &across);
  make_taps(view.height, window.top, window.height, size, cubic, &down);
  if (flip != Flip::kNone) reverse(&across);
  const std::size_t length = static_cast<std::size_t>(size) * 4;
  scratch->columns.resize(length * view.height + kSlack);
  scratch->row.resize(length + kSlack);
  along_rows(view, across, size, scratch->columns.data());
  for (int y = 0; y < size; y++) {
    along_columns(down, y, static_cast<int>(length), scratch);
    sink(y, scratch->row.data());
  }
}

}  // namespace nfnets
