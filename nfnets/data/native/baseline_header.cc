#include "baseline_header.h"

#include <cstring>

namespace nfnets {
namespace {

enum Marker {
  kSof0 = 0xC0,
  kSof1 = 0xC1,
  kDht = 0xC4,
  kSoi = 0xD8,
  kSos = 0xDA,
  kDqt = 0xDB,
  kDri = 0xDD,
  kApp0 = 0xE0,
  kApp14 = 0xEE,
  kApp15 = 0xEF,
  kComment = 0xFE
};
// libjpeg refuses larger pictures.
constexpr int kMaxSide = 65500;

// What is left of a marker segment.
struct Segment {
  const std::uint8_t* at;
  const std::uint8_t* end;

  std::ptrdiff_t left() const { return end - at; }
};

int be16(const std::uint8_t* at) { return at[0] << 8 | at[1]; }

bool read_quant(Segment segment, BaselineHeader* header) {
  while (segment.left() > 0) {
    const int number = segment.at[0] & 15, bytes = (segment.at[0] >> 4) + 1;
    if (number > 3 || bytes > 2 || segment.left() < 1 + 64 * bytes) return false;
    segment.at++;
    for (int k = 0; k < 64; k++, segment.at += bytes) {
      const int step = bytes == 1 ? segment.at[0] : be16(segment.at);
      if (step > 255) return false;
      header->quant[number][k] = static_cast<std::uint8_t>(step);
    }
    header->quant_defined[number] = true;
  }
  return true;
}

bool read_huffman(Segment segment, BaselineHeader* header) {
  while (segment.left() > 0) {
    const int kind = segment.at[0] >> 4, number = segment.at[0] & 15;
    if (kind > 1 || number > 3 || segment.left() < 17) return false;
    HuffmanSpec& spec = (kind == 0 ? header->dc : header->ac)[number];
    int total = 0;
    for (int i = 1; i <= 16; i++) total += spec.counts[i] = segment.at[i];
    segment.at += 17;
    if (total > 256 || segment.left() < total) return false;
    std::memset(spec.values, 0, sizeof spec.values);
    std::memcpy(spec.values, segment.at, total);
    segment.at += total;
    spec.defined = true;
  }
  return true;
}

bool read_frame(Segment segment, BaselineHeader* header) {
  if (header->components != 0 || segment.left() < 6 || segment.at[0] != 8) return false;
  header->height = be16(segment.at + 1);
  header->width = be16(segment.at + 3);
  const int count = segment.at[5];
  if (header->height < 1 || header->height > kMaxSide || header->width < 1 ||
      header->width > kMaxSide || (count != 1 && count != 3) ||
      segment.left() != 6 + 3 * count) {
    return false;
  }
  header->components = count;
  for (int i = 0; i < count; i++) {
    const std::uint8_t* at = segment.at + 6 + 3 * i;
    header->component[i] = {at[0], at[1] >> 4, at[1] & 15, at[2], 0, 0};
    if (at[2] > 3) return false;
  }
  return true;
}

// Whether an application segment leaves the picture what it seems: YCbCr, no warning.
bool check_application(int marker, Segment segment, int components) {
  if (marker == kApp0 && segment.left() >= 12 &&
      std::memcmp(segment.at, "JFIF", 5) == 0) {
    return segment.at[5] == 1;  // libjpeg warns of other versions
  }
  if (marker == kApp14 && segment.left() >= 12 &&
      std::memcmp(segment.at, "Adobe", 5) == 0) {
    return components == 1 || segment.at[11] == 1;
  }
  return true;
}

// 4:4:4, 4:2:2 and 4:2:0, with the components Y, Cb and Cr; or grey.
bool check_components(const BaselineHeader& header) {
  const Component* part = header.component;
  if (header.components == 1) {
    return part[0].h >= 1 && part[0].h <= 4 && part[0].v >= 1 && part[0].v <= 4;
  }
  const bool is_rgb = part[0].id == 'R' && part[1].id == 'G' && part[2].id == 'B';
  const bool is_doubled = part[0].id == part[1].id || part[0].id == part[2].id ||
                          part[1].id == part[2].id;
  if (is_rgb || is_doubled) return false;
  for (int i = 1; i < 3; i++) {
    if (part[i].h != 1 || part[i].v != 1) return false;
  }
  // libjpeg does not smooth chroma of two columns or fewer.
  const bool is_narrow = (header.width + 1) / 2 <= 2;
  const int h = part[0].h, v = part[0].v;
  return (h == 1 && v == 1) || (h == 2 && (v == 1 || v == 2) && !is_narrow);
}

// One scan of all components.
bool read_scan(Segment segment, BaselineHeader* header) {
  const int count = header->components;
  if (count == 0 || segment.left() != 4 + 2 * count || segment.at[0] != count) return false;
  for (int i = 0; i < count; i++) {
    Component& part = header->component[i];
    const int id = segment.at[1 + 2 * i], tables = segment.at[2 + 2 * i];
    part.dc = tables >> 4;
    part.ac = tables & 15;
    if (id != part.id || part.dc > 3 || part.ac > 3 || !header->dc[part.dc].defined ||
        !header->ac[part.ac].defined || !header->quant_defined[part.quant]) {
      return false;
    }
  }
  const std::uint8_t* spectral = segment.at + 1 + 2 * count;
  header->scan = segment.end;
  return spectral[0] == 0 && spectral[1] == 63 && spectral[2] == 0;
}

bool read_segment(int marker, Segment segment, BaselineHeader* header) {
  switch (marker) {
    case kSof0:
    case kSof1:
      return read_frame(segment, header);
    case kDht:
      return read_huffman(segment, header);
    case kDqt:
      return read_quant(segment, header);
    case kSos:
      return read_scan(segment, header);
    case kDri:
      if (segment.left() != 2) return false;
      header->restart_interval = be16(segment.at);
      return true;
    default:
      return (marker >= kApp0 && marker <= kApp15) || marker == kComment;
  }
}

// Application segments may stand before the frame: to be judged at the end.
bool check_applications(const std::uint8_t* data, const BaselineHeader& header) {
  const std::uint8_t* at = data + 2;
  while (at < header.scan) {
    if (at[1] == 0xFF) {
      at++;
      continue;
    }
    const std::uint8_t* end = at + 2 + be16(at + 2);
    if (!check_application(at[1], {at + 4, end}, header.components)) return false;
    at = end;
  }
  return true;
}

}  // namespace

bool read_baseline_header(const std::uint8_t* data, std::size_t size,
                          BaselineHeader* header) {
  if (size < 4 || data[0] != 0xFF || data[1] != kSoi) return false;
  const std::uint8_t *at = data + 2, *end = data + size;
  while (header->scan == nullptr) {
    if (end - at < 4 || at[0] != 0xFF) return false;
    if (at[1] == 0xFF) {  // fill byte
      at++;
      continue;
    }
    const int length = be16(at + 2);
    if (length < 2 || end - at < 2 + length) return false;
    const Segment segment{at + 4, at + 2 + length};
    if (!read_segment(at[1], segment, header)) return false;
    at = segment.end;
  }
  return check_components(*header) && check_applications(data, *header);
}

}  // namespace nfnets
