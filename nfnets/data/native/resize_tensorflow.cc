// TensorFlow's resize without antialias: two or four source pixels per axis whatever
// the scale, in float32 and in TensorFlow's order, so that the floats are its own.
// Compiled without contraction of multiply-adds, which would round differently.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "dispatch.h"
#include "resize.h"

namespace nfnets {
namespace {

constexpr int kCubicSteps = 1024;  // of TensorFlow's table of cubic weights

struct Lerp {
  int lower, upper;
  float share;  // of the upper
};

struct Cubic {
  int index[4];
  float weight[4];
};

void make_lerps(int length, int size, std::vector<Lerp>* lerps) {
  const float scale = static_cast<float>(length) / static_cast<float>(size);
  lerps->resize(size);
  for (int i = 0; i < size; i++) {
    const float centre = (static_cast<float>(i) + 0.5f) * scale - 0.5f;
    const float first = std::floor(centre);
    (*lerps)[i] = {std::max(static_cast<int>(first), 0),
                   std::min(static_cast<int>(std::ceil(centre)), length - 1),
                   centre - first};
  }
}

// Keys' cubic kernel at a distance of steps / 1024.
double keys(int steps, double a) {
  const double x = static_cast<double>(steps) / kCubicSteps;
  if (x <= 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? a * (((x - 5) * x + 8) * x - 4) : 0;
}

struct CubicTable {
  float near[2 * kCubicSteps + 1];
  explicit CubicTable(double a) {
    for (int i = 0; i <= 2 * kCubicSteps; i++) near[i] = static_cast<float>(keys(i, a));
  }
};

void make_cubics(int length, int size, bool half_pixel, std::vector<Cubic>* cubics) {
  static const CubicTable modern(-0.5), legacy(-0.75);
  const float* table = half_pixel ? modern.near : legacy.near;
  const float scale = static_cast<float>(length) / static_cast<float>(size);
  cubics->resize(size);
  for (int i = 0; i < size; i++) {
    const float place = static_cast<float>(i);
    const float centre = half_pixel ? (place + 0.5f) * scale - 0.5f : place * scale;
    const float first = std::floor(centre);
    const int offset = static_cast<int>(std::lrint((centre - first) * kCubicSteps));
    Cubic& cubic = (*cubics)[i];
    float total = 0;
    for (int k = 0; k < 4; k++) {
      const int index = static_cast<int>(first) + k - 1;
      cubic.index[k] = std::clamp(index, 0, length - 1);
      cubic.weight[k] = table[std::abs(offset - (k - 1) * kCubicSteps)];
      // TensorFlow 1 repeats the border; later ones leave it out.
      if (half_pixel && index != cubic.index[k]) cubic.weight[k] = 0;
      total = k == 0 ? cubic.weight[k] : total + cubic.weight[k];
    }
    const float inverse = 1.0f / total;
    if (half_pixel) {
      for (float& weight : cubic.weight) weight *= inverse;
    }
  }
}

// Four channels of a pixel, computed side by side.
typedef float Pixel __attribute__((vector_size(16)));
typedef std::uint8_t Bytes __attribute__((vector_size(4)));
typedef std::int32_t Words __attribute__((vector_size(16)));

NFNETS_INLINE Pixel load(const std::uint8_t* pixel) {
  Bytes bytes;
  std::memcpy(&bytes, pixel, 4);
  return __builtin_convertvector(__builtin_convertvector(bytes, Words), Pixel);
}

NFNETS_INLINE Pixel load(const float* pixel) {
  Pixel value;
  std::memcpy(&value, pixel, sizeof(value));
  return value;
}

NFNETS_INLINE void lerp_row(const std::uint8_t* row, const std::vector<Lerp>& lerps, float* out) {
  for (const Lerp& lerp : lerps) {
    const Pixel left = load(row + 4 * lerp.lower), right = load(row + 4 * lerp.upper);
    const Pixel value = left + (right - left) * lerp.share;
    std::memcpy(out, &value, sizeof(value));
    out += 4;
  }
}

NFNETS_INLINE void lerp_rows(const float* top, const float* bottom, float share, int length,
                             float* out) {
  for (int i = 0; i < length; i++) out[i] = top[i] + (bottom[i] - top[i]) * share;
}

NFNETS_INLINE void weigh_rows(const std::uint8_t* const rows[4], const float weights[4],
                              int length, float* out) {
  const std::uint8_t *a = rows[0], *b = rows[1], *c = rows[2], *d = rows[3];
  for (int i = 0; i < length; i++) {
    out[i] = static_cast<float>(a[i]) * weights[0] + static_cast<float>(b[i]) * weights[1] +
             static_cast<float>(c[i]) * weights[2] + static_cast<float>(d[i]) * weights[3];
  }
}

NFNETS_INLINE void weigh_columns(const float* row, const std::vector<Cubic>& cubics, float* out) {
  for (const Cubic& cubic : cubics) {
    const Pixel a = load(row + 4 * cubic.index[0]), b = load(row + 4 * cubic.index[1]);
    const Pixel c = load(row + 4 * cubic.index[2]), d = load(row + 4 * cubic.index[3]);
    const float* w = cubic.weight;
    const Pixel value = a * w[0] + b * w[1] + c * w[2] + d * w[3];
    std::memcpy(out, &value, sizeof(value));
    out += 4;
  }
}

NFNETS_DISPATCH(lerp_row,
                (const std::uint8_t* row, const std::vector<Lerp>& lerps, float* out),
                (row, lerps, out))
NFNETS_DISPATCH(lerp_rows,
                (const float* top, const float* bottom, float share, int length, float* out),
                (top, bottom, share, length, out))
NFNETS_DISPATCH(weigh_rows,
                (const std::uint8_t* const rows[4], const float weights[4], int length, float* out),
                (rows, weights, length, out))
NFNETS_DISPATCH(weigh_columns,
                (const float* row, const std::vector<Cubic>& cubics, float* out),
                (row, cubics, out))

// The lerped source rows of the last result row, of which the next may need one or both.
struct HeldRows {
  int source[2] = {-1, -1};
  float* values[2];

  void hold(const Lerp& lerp, const View& view, const std::vector<Lerp>& across) {
    if (source[1] == lerp.lower) {
      std::swap(values[0], values[1]);
      std::swap(source[0], source[1]);
    }
    const int wanted[2] = {lerp.lower, lerp.upper};
    for (int i = 0; i < 2; i++) {
      if (source[i] == wanted[i]) continue;
      lerp_row_fast(view.pixels + wanted[i] * view.pitch, across, values[i]);
      source[i] = wanted[i];
    }
  }
};

void bilinear(const View& view, int size, Flip flip, Scratch* scratch,
              const RowSink<float>& sink) {
  static thread_local std::vector<Lerp> kept[2];
  std::vector<Lerp>&across = kept[0], &down = kept[1];
  make_lerps(view.width, size, &across);
  make_lerps(view.height, size, &down);
  if (flip == Flip::kLast) std::reverse(across.begin(), across.end());
  for (Lerp& lerp : across) {
    if (flip == Flip::kFirst) lerp.lower = view.width - 1 - lerp.lower;
    if (flip == Flip::kFirst) lerp.upper = view.width - 1 - lerp.upper;
  }
  const int length = size * 4;
  for (auto& row : scratch->rows) row.resize(length);
  scratch->wide.resize(length);
  HeldRows held{{-1, -1}, {scratch->rows[0].data(), scratch->rows[1].data()}};
  for (int y = 0; y < size; y++) {
    held.hold(down[y], view, across);
    lerp_rows_fast(held.values[0], held.values[1], down[y].share, length, scratch->wide.data());
    sink(y, scratch->wide.data());
  }
}

void bicubic(const View& view, int size, bool half_pixel, Flip flip, Scratch* scratch,
             const RowSink<float>& sink) {
  static thread_local std::vector<Cubic> kept[2];
  std::vector<Cubic>&across = kept[0], &down = kept[1];
  make_cubics(view.width, size, half_pixel, &across);
  make_cubics(view.height, size, half_pixel, &down);
  if (flip == Flip::kLast) std::reverse(across.begin(), across.end());
  for (Cubic& cubic : across) {
    for (int& index : cubic.index) {
      if (flip == Flip::kFirst) index = view.width - 1 - index;
    }
  }
  scratch->wide.resize(static_cast<std::size_t>(view.width) * 4);
  scratch->rows[0].resize(static_cast<std::size_t>(size) * 4);
  for (int y = 0; y < size; y++) {
    const std::uint8_t* rows[4];
    for (int k = 0; k < 4; k++) rows[k] = view.pixels + down[y].index[k] * view.pitch;
    weigh_rows_fast(rows, down[y].weight, view.width * 4, scratch->wide.data());
    weigh_columns_fast(scratch->wide.data(), across, scratch->rows[0].data());
    sink(y, scratch->rows[0].data());
  }
}

}  // namespace

void resize_floats(const View& view, int size, Kernel kernel, Flip flip, Scratch* scratch,
                   const RowSink<float>& sink) {
  if (kernel == Kernel::kBilinear) {
    bilinear(view, size, flip, scratch, sink);
  } else {
    bicubic(view, size, kernel == Kernel::kBicubic, flip, scratch, sink);
  }
}

}  // namespace nfnets
