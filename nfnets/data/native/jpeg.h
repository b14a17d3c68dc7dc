// JPEG: the header, and a window of the pixels, as libjpeg-turbo decodes them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "image.h"

namespace nfnets {

struct Header {
  int height;
  int width;
  int components;
};

// Reads the frame header; false when it is no JPEG or has none.
bool read_header(const std::uint8_t* data, std::size_t size, Header* header);

// Decodes the pixels inside `box` (of the picture at 1/denominator of its size) to the
// same values as a decode of the whole picture gives, with the accurate DCT and smooth
// upsampling. Returns false on any error or warning of the decoder, for CMYK, and when
// the file has no end: then a strict decode of the whole picture is to decide.
bool decode_window(const std::uint8_t* data, std::size_t size, int denominator,
                   const Box& box, std::vector<std::uint8_t>* buffer, View* view);

// The same without the decoder of baseline.h, which is faster.
bool decode_window_by_libjpeg(const std::uint8_t* data, std::size_t size, int denominator,
                              const Box& box, std::vector<std::uint8_t>* buffer,
                              View* view);

}  // namespace nfnets
