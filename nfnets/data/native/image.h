// What the kernels share: pixel buffers of one worker, and views of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace nfnets {

// Bytes that vector loads may touch beyond the last pixel of a buffer.
constexpr std::size_t kSlack = 64;

// A rectangle of pixels.
struct Box {
  int top, left, height, width;
};

// Four bytes a pixel (red, green, blue, unused), rows `pitch` bytes apart. Up to kSlack
// bytes beyond the last pixel may be read.
struct View {
  const std::uint8_t* pixels;
  int height;
  int width;
  std::size_t pitch;
};

// Memory that one worker thread uses again and again.
struct Scratch {
  std::vector<std::uint8_t> window;   // a decoded part of a picture, 4 bytes a pixel
  std::vector<std::uint8_t> columns;  // that, resized along its rows
  std::vector<std::uint8_t> row;      // one row of a result, 4 bytes a pixel
  std::vector<float> wide;            // one row of weighted source rows
  std::vector<float> rows[2];         // rows of a result, 4 floats a pixel
  std::vector<float> first, second;   // S x S x 3, to be mixed
  std::vector<std::uint8_t> image;    // S x S x 3 or 4, what an operation reads
  std::vector<std::int32_t> sums;
};

}  // namespace nfnets
