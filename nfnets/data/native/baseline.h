// A decoder of baseline JPEGs for windows of them, to the same bytes as libjpeg-turbo
// decodes the whole picture to (JDCT_ISLOW, smooth upsampling). It is faster as it only
// finds where the symbols end outside the window, and decodes several at a time in it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "image.h"

namespace nfnets {

// 8 bits, Huffman coded, grey or YCbCr 4:4:4, 4:2:2 or 4:2:0 in a single scan, with or
// without restarts. Returns false for other files, and where libjpeg would fail or warn
// before the window is complete: libjpeg is to decide then.
bool decode_baseline_window(const std::uint8_t* data, std::size_t size, const Box& box,
                            std::vector<std::uint8_t>* buffer, View* view);

}  // namespace nfnets
