#include "warp.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "dispatch.h"

namespace nfnets {
namespace {

// The nearest pixel on one axis, or -1 outside.
NFNETS_INLINE int nearest(float at, int size) {
  if (!(at > -0.5f)) return -1;
  const int index = at < 0 ? 0 : static_cast<int>(static_cast<double>(at) + 0.5);
  return index < size ? index : -1;
}

// Four channels of a pixel as doubles, computed side by side.
typedef double Pixel __attribute__((vector_size(32)));
typedef std::uint8_t Bytes __attribute__((vector_size(4)));
typedef std::int32_t Words __attribute__((vector_size(16)));

// A picture of 4-byte pixels; neighbours outside are the border's.
struct Source {
  const std::uint8_t* pixels;
  int size;

  NFNETS_INLINE int clip(int at) const { return std::min(std::max(at, 0), size - 1); }

  NFNETS_INLINE const std::uint8_t* row(int y) const {
    return pixels + static_cast<std::size_t>(clip(y)) * size * 4;
  }

  NFNETS_INLINE Pixel at(const std::uint8_t* row, int x) const {
    Bytes bytes;
    std::memcpy(&bytes, row + clip(x) * 4, 4);
    return __builtin_convertvector(__builtin_convertvector(bytes, Words), Pixel);
  }
};

NFNETS_INLINE Pixel linear(const Pixel& a, const Pixel& b, double d) { return a + (b - a) * d; }

NFNETS_INLINE Pixel cubic(const Pixel& a, const Pixel& b, const Pixel& c, const Pixel& e,
                          double d) {
  const Pixel p2 = -a + c, p3 = 2.0 * (a - b) + c - e, p4 = -a + b - c + e;
  return b + d * (p2 + d * (p3 + d * p4));
}

// Where the place lies on the grid, the neighbours weigh exactly nothing.
NFNETS_INLINE Pixel linear_row(const Source& source, int y, int x, double d) {
  const std::uint8_t* row = source.row(y);
  if (d == 0) return source.at(row, x);
  return linear(source.at(row, x), source.at(row, x + 1), d);
}

NFNETS_INLINE Pixel cubic_row(const Source& source, int y, int x, double d) {
  const std::uint8_t* row = source.row(y);
  if (d == 0) return source.at(row, x);
  return cubic(source.at(row, x - 1), source.at(row, x), source.at(row, x + 1),
               source.at(row, x + 2), d);
}

NFNETS_INLINE Pixel sample(bool bicubic, const Source& source, double x, double y) {
  const double left = std::floor(x), top = std::floor(y);
  const int column = static_cast<int>(left), row = static_cast<int>(top);
  const double dx = x - left, dy = y - top;
  if (!bicubic) {
    const Pixel upper = linear_row(source, row, column, dx);
    return dy == 0 ? upper : linear(upper, linear_row(source, row + 1, column, dx), dy);
  }
  const Pixel centre = cubic_row(source, row, column, dx);
  if (dy == 0) return centre;
  return cubic(cubic_row(source, row - 1, column, dx), centre,
               cubic_row(source, row + 1, column, dx), cubic_row(source, row + 2, column, dx), dy);
}

NFNETS_INLINE void store(const Pixel& pixel, std::uint8_t* out) {
  for (int c = 0; c < 3; c++) {
    out[c] = static_cast<std::uint8_t>(std::min(std::max(pixel[c], 0.0), 255.0));
  }
}

NFNETS_INLINE void warp_rows(bool bicubic, const Operation& operation, const Source& source,
                             std::uint8_t* image) {
  const double* to = operation.values;
  const int size = source.size;
  for (int row = 0; row < size; row++) {
    const double v = row + 0.5;
    for (int column = 0; column < size; column++, image += 3) {
      const double u = column + 0.5;
      const double x = to[0] * u + to[1] * v + to[2], y = to[3] * u + to[4] * v + to[5];
      if (x < 0 || x >= size || y < 0 || y >= size) {
        put(image, operation.fill);
      } else {
        store(sample(bicubic, source, x - 0.5, y - 0.5), image);
      }
    }
  }
}

NFNETS_INLINE void warp_bilinear(const Operation& operation, const Source& source,
                                 std::uint8_t* image) {
  warp_rows(false, operation, source, image);
}

NFNETS_INLINE void warp_bicubic(const Operation& operation, const Source& source,
                                std::uint8_t* image) {
  warp_rows(true, operation, source, image);
}

NFNETS_DISPATCH(warp_bilinear,
                (const Operation& operation, const Source& source, std::uint8_t* image),
                (operation, source, image))
NFNETS_DISPATCH(warp_bicubic,
                (const Operation& operation, const Source& source, std::uint8_t* image),
                (operation, source, image))

}  // namespace

void warp_tf(const Operation& operation, int size, std::uint8_t* image, Scratch* scratch) {
  float to[6];
  for (int i = 0; i < 6; i++) to[i] = static_cast<float>(operation.values[i]);
  scratch->image.assign(image, image + size * size * 3);
  for (int y = 0; y < size; y++) {
    for (int x = 0; x < size; x++, image += 3) {
      const float fx = x, fy = y;
      const int from_x = nearest(to[0] * fx + to[1] * fy + to[2], size);
      const int from_y = nearest(to[3] * fx + to[4] * fy + to[5], size);
      if (from_x < 0 || from_y < 0) {
        put(image, operation.fill);
      } else {
        std::memcpy(image, scratch->image.data() + (from_y * size + from_x) * 3, 3);
      }
    }
  }
}

void warp_pil(const Operation& operation, int size, std::uint8_t* image, Scratch* scratch) {
  scratch->image.resize(static_cast<std::size_t>(size) * size * 4);
  for (int i = 0; i < size * size; i++) {
    std::memcpy(scratch->image.data() + 4 * i, image + 3 * i, 3);
  }
  const Source source{scratch->image.data(), size};
  if (static_cast<Code>(operation.code) == Code::kWarpPilBicubic) {
    warp_bicubic_fast(operation, source, image);
  } else {
    warp_bilinear_fast(operation, source, image);
  }
}

}  // namespace nfnets
