#include "operations.h"

#include "dispatch.h"
#include "warp.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace nfnets {
namespace {

struct Table {
  std::uint8_t of[256][3];
};

void look_up(const Table& table, int pixels, std::uint8_t* image) {
  for (int i = 0; i < pixels; i++, image += 3) {
    for (int c = 0; c < 3; c++) image[c] = table.of[image[c]][c];
  }
}

struct Histogram {
  int counts[3][256];
};

void count_levels(const std::uint8_t* image, int pixels, Histogram* histogram) {
  std::memset(histogram, 0, sizeof(Histogram));
  for (int i = 0; i < pixels; i++, image += 3) {
    for (int c = 0; c < 3; c++) histogram->counts[c][image[c]]++;
  }
}

void autocontrast_table(const Histogram& histogram, bool pil, Table* table) {
  for (int c = 0; c < 3; c++) {
    const int* counts = histogram.counts[c];
    int low = 0, high = 255;
    while (low < 255 && counts[low] == 0) low++;
    while (high > 0 && counts[high] == 0) high--;
    for (int level = 0; level < 256; level++) {
      double value = level;
      if (high > low && pil) {
        const double scale = 255.0 / (high - low);
        value = level * scale + -low * scale;
      } else if (high > low) {
        const float scale = 255.0f / static_cast<float>(high - low);
        value = static_cast<float>(level) * scale - static_cast<float>(low) * scale;
      }
      table->of[level][c] = static_cast<std::uint8_t>(std::clamp(value, 0.0, 255.0));
    }
  }
}

void equalize_table(const Histogram& histogram, int pixels, Table* table) {
  for (int c = 0; c < 3; c++) {
    const int* counts = histogram.counts[c];
    int last = 255;
    while (last > 0 && counts[last] == 0) last--;
    const int step = (pixels - counts[last]) / 255;
    int below = 0;
    for (int level = 0; level < 256; level++) {
      const int value = step > 0 ? std::min((below + step / 2) / step, 255) : level;
      table->of[level][c] = static_cast<std::uint8_t>(value);
      below += counts[level];
    }
  }
}

// Both codes: truncated, and clipped only where the factor extrapolates.
NFNETS_INLINE std::uint8_t blend(std::uint8_t degenerate, std::uint8_t pixel, float factor,
                          bool extrapolates) {
  const float base = degenerate;
  float mixed = base + factor * (static_cast<float>(pixel) - base);
  if (extrapolates) mixed = std::min(std::max(mixed, 0.0f), 255.0f);
  return static_cast<std::uint8_t>(mixed);
}

inline std::uint8_t grey_pil(const std::uint8_t* pixel) {
  return (pixel[0] * 19595 + pixel[1] * 38470 + pixel[2] * 7471 + 0x8000) >> 16;
}

struct GreyTf {
  float share[3][256];
  GreyTf() {
    constexpr float weights[3] = {0.2989f, 0.587f, 0.114f};
    constexpr float scale = static_cast<float>(1.0 / 255.0);
    for (int c = 0; c < 3; c++) {
      for (int level = 0; level < 256; level++) {
        share[c][level] = static_cast<float>(level) * scale * weights[c];
      }
    }
  }
  std::uint8_t operator()(const std::uint8_t* pixel) const {
    const float sum = share[0][pixel[0]] + share[1][pixel[1]] + share[2][pixel[2]];
    return static_cast<std::uint8_t>(sum * 255.5f);
  }
};

template <typename Grey>
void color(const Grey& grey, float factor, int pixels, std::uint8_t* image) {
  if (factor == 1) return;
  const bool extrapolates = !(factor > 0 && factor < 1);
  for (int i = 0; i < pixels; i++, image += 3) {
    const std::uint8_t level = grey(image);
    for (int c = 0; c < 3; c++) {
      image[c] = factor == 0 ? level : blend(level, image[c], factor, extrapolates);
    }
  }
}

void contrast_pil(float factor, int pixels, std::uint8_t* image) {
  if (factor == 1) return;
  std::int64_t total = 0;
  for (int i = 0; i < pixels; i++) total += grey_pil(image + 3 * i);
  const auto mean = static_cast<std::uint8_t>(static_cast<double>(total) / pixels + 0.5);
  Table table;
  const bool extrapolates = !(factor > 0 && factor < 1);
  for (int level = 0; level < 256; level++) {
    const auto value = static_cast<std::uint8_t>(level);
    const std::uint8_t mixed = factor == 0 ? mean : blend(mean, value, factor, extrapolates);
    for (int c = 0; c < 3; c++) table.of[level][c] = mixed;
  }
  look_up(table, pixels, image);
}

// One row of the 3 x 3 mean with the centre counted five times, times 13.
NFNETS_INLINE void smooth_sums(const std::uint8_t* centre, int row, int length, int* sums) {
  for (int i = 0; i < length; i++) {
    const std::uint8_t* at = centre + i;
    sums[i] = at[-row - 3] + at[-row] + at[-row + 3] + at[-3] + 5 * at[0] + at[3] +
              at[row - 3] + at[row] + at[row + 3];
  }
}

// TensorFlow truncates a float sum: the integer quotient, but where the sum is a
// multiple of 13 the rounding errors of fused multiply-adds decide.
std::uint8_t smooth_tf(const std::uint8_t* centre, int row) {
  constexpr float weights[2] = {1.0f / 13.0f, 5.0f / 13.0f};
  float total = 0;
  for (int place = 0; place < 9; place++) {
    const std::uint8_t value = centre[(place / 3 - 1) * row + (place % 3 - 1) * 3];
    const double term = static_cast<double>(weights[place == 4]) * value;
    total = static_cast<float>(term + total);
  }
  return static_cast<std::uint8_t>(std::min(std::max(total, 0.0f), 255.0f));
}

NFNETS_INLINE void smooth_row(bool pil, const std::uint8_t* centre, int row, int length,
                              int* sums, std::uint8_t* smooth) {
  smooth_sums(centre, row, length, sums);
  if (pil) {  // rounds to the nearest
    for (int i = 0; i < length; i++) smooth[i] = (2 * sums[i] + 13) / 26;
    return;
  }
  for (int i = 0; i < length; i++) smooth[i] = sums[i] / 13;
  for (int i = 0; i < length; i++) {
    if (smooth[i] * 13 == sums[i]) smooth[i] = smooth_tf(centre + i, row);
  }
}

NFNETS_INLINE void blend_row(const std::uint8_t* smooth, float factor, int length,
                             std::uint8_t* pixels) {
  const bool extrapolates = !(factor > 0 && factor < 1);
  for (int i = 0; i < length; i++) {
    pixels[i] = blend(smooth[i], pixels[i], factor, extrapolates);
  }
}

NFNETS_INLINE void sharpen_row(bool pil, float factor, const std::uint8_t* centre, int row,
                               Scratch* scratch, std::uint8_t* out) {
  std::uint8_t* smooth = scratch->row.data();
  smooth_row(pil, centre, row, row - 6, scratch->sums.data(), smooth);
  if (factor == 0) {
    std::memcpy(out, smooth, row - 6);
  } else {
    blend_row(smooth, factor, row - 6, out);
  }
}

NFNETS_DISPATCH(sharpen_row,
                (bool pil, float factor, const std::uint8_t* centre, int row, Scratch* scratch,
                 std::uint8_t* out),
                (pil, factor, centre, row, scratch, out))

void sharpness(bool pil, float factor, int size, std::uint8_t* image, Scratch* scratch) {
  if (size < 3 || factor == 1) return;
  const int row = size * 3;
  scratch->image.assign(image, image + row * size);
  scratch->sums.resize(row);
  scratch->row.resize(row + kSlack);
  for (int y = 1; y < size - 1; y++) {
    const std::size_t at = y * row + 3;
    sharpen_row_fast(pil, factor, scratch->image.data() + at, row, scratch, image + at);
  }
}

void fill(const Operation& operation, int size, std::uint8_t* image) {
  const auto limit = [size](double value) {
    return static_cast<int>(std::clamp(value, 0.0, static_cast<double>(size)));
  };
  const int top = limit(operation.values[0]), bottom = limit(operation.values[1]);
  const int left = limit(operation.values[2]), right = limit(operation.values[3]);
  for (int y = top; y < bottom; y++) {
    for (int x = left; x < right; x++) put(image + (y * size + x) * 3, operation.fill);
  }
}

}  // namespace

void apply(const Operation& operation, const std::uint8_t* tables, int size,
           std::uint8_t* image, Scratch* scratch) {
  static const GreyTf grey_tf;
  const int pixels = size * size;
  const auto factor = static_cast<float>(operation.values[0]);
  Histogram histogram;
  Table table;
  switch (static_cast<Code>(operation.code)) {
    case Code::kTable:
      std::memcpy(&table, tables + static_cast<int>(operation.values[0]) * sizeof(Table),
                  sizeof(Table));
      return look_up(table, pixels, image);
    case Code::kAutoContrastTf:
    case Code::kAutoContrastPil:
      count_levels(image, pixels, &histogram);
      autocontrast_table(histogram, operation.code == 2, &table);
      return look_up(table, pixels, image);
    case Code::kEqualize:
      count_levels(image, pixels, &histogram);
      equalize_table(histogram, pixels, &table);
      return look_up(table, pixels, image);
    case Code::kColorTf:
      return color(grey_tf, factor, pixels, image);
    case Code::kColorPil:
      return color(grey_pil, factor, pixels, image);
    case Code::kContrastPil:
      return contrast_pil(factor, pixels, image);
    case Code::kSharpnessTf:
    case Code::kSharpnessPil:
      return sharpness(operation.code == 8, factor, size, image, scratch);
    case Code::kWarpTf:
      return warp_tf(operation, size, image, scratch);
    case Code::kWarpPilBilinear:
    case Code::kWarpPilBicubic:
      return warp_pil(operation, size, image, scratch);
    case Code::kFill:
      return fill(operation, size, image);
  }
}

}  // namespace nfnets
