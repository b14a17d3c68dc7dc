// The markers of a baseline JPEG: frame, tables and the start of its one scan.
#pragma once

#include <cstddef>
#include <cstdint>

namespace nfnets {

// A Huffman table as the file gives it (ITU T.81, B.2.4.2).
struct HuffmanSpec {
  bool defined = false;
  std::uint8_t counts[17] = {};  // codes of each length, 1 to 16
  std::uint8_t values[256] = {};
};

struct Component {
  int id, h, v;   // identifier, sampling factors
  int quant, dc, ac;  // its tables
};

struct BaselineHeader {
  int height = 0, width = 0;
  int components = 0;
  Component component[3] = {};
  bool quant_defined[4] = {};
  std::uint8_t quant[4][64] = {};  // zigzag order
  HuffmanSpec dc[4], ac[4];
  int restart_interval = 0;
  const std::uint8_t* scan = nullptr;  // the first entropy-coded byte
};

// Reads everything before the entropy-coded data. False for what baseline.h does not
// decode, and for whatever makes libjpeg fail or warn.
bool read_baseline_header(const std::uint8_t* data, std::size_t size,
                          BaselineHeader* header);

}  // namespace nfnets
