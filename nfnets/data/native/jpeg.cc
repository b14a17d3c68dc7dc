#include "jpeg.h"

#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <exception>

#include <jpeglib.h>

#include "baseline.h"

#ifndef JCS_EXTENSIONS
#error "libjpeg-turbo is needed: this libjpeg has no JCS_EXTENSIONS"
#endif

namespace nfnets {
namespace {

// More scans than any sane progressive picture has: each costs a pass over all pixels.
constexpr int kMaxScans = 500;
// Coefficients of progressive pictures stay in memory; beyond, libjpeg would swap.
constexpr long kMaxMemory = 1L << 30;
constexpr int kRowsPerCall = 16;

struct ErrorManager {
  jpeg_error_mgr base;
  std::jmp_buf escape;
};

[[noreturn]] void leave(j_common_ptr info) {
  std::longjmp(reinterpret_cast<ErrorManager*>(info->err)->escape, 1);
}

void count_warnings(j_common_ptr info, int level) {
  if (level < 0) info->err->num_warnings++;
}

void say_nothing(j_common_ptr) {}

void limit_scans(j_common_ptr info) {
  auto* decoder = reinterpret_cast<j_decompress_ptr>(info);
  if (decoder->input_scan_number > kMaxScans) leave(info);
}

int be16(const std::uint8_t* at) { return at[0] << 8 | at[1]; }

bool has_end(const std::uint8_t* data, std::size_t size) {
  const std::size_t tail = std::min<std::size_t>(size, 64);
  for (std::size_t i = size - tail; i + 1 < size; i++) {
    if (data[i] == 0xFF && data[i + 1] == 0xD9) return true;
  }
  return false;
}

// The columns to decode: the window, and where chroma is subsampled also its
// neighbours, which smooth upsampling looks at. libjpeg aligns the start.
void crop_columns(j_decompress_ptr decoder, const Box& box, JDIMENSION* left) {
  const int margin = decoder->max_h_samp_factor > 1 ? 2 * DCTSIZE : 0;
  const int last = std::min<int>(decoder->output_width, box.left + box.width + margin);
  *left = std::max(0, box.left - margin);
  JDIMENSION width = last - *left;
  if (width < decoder->output_width) {
    jpeg_crop_scanline(decoder, left, &width);
  } else {
    *left = 0;
  }
}

void read_rows(j_decompress_ptr decoder, const Box& box, std::uint8_t* pixels,
               std::size_t pitch) {
  if (box.top > 0) jpeg_skip_scanlines(decoder, box.top);
  for (int row = 0; row < box.height;) {
    JSAMPROW rows[kRowsPerCall];
    const int count = std::min(kRowsPerCall, box.height - row);
    for (int i = 0; i < count; i++) rows[i] = pixels + (row + i) * pitch;
    row += jpeg_read_scanlines(decoder, rows, count);
  }
}

}  // namespace

bool read_header(const std::uint8_t* data, std::size_t size, Header* header) {
  if (size < 4 || data[0] != 0xFF || data[1] != 0xD8) return false;
  std::size_t at = 2;
  while (at + 9 < size) {
    if (data[at] != 0xFF) return false;
    const int marker = data[at + 1];
    if (marker == 0xFF) {  // fill byte
      at++;
      continue;
    }
    const bool is_frame = marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 &&
                          marker != 0xC8 && marker != 0xCC;
    if (is_frame) {
      *header = {be16(data + at + 5), be16(data + at + 7), data[at + 9]};
      return header->height > 0 && header->width > 0;
    }
    const bool has_no_length = marker == 0x01 || (marker >= 0xD0 && marker <= 0xD8);
    at += has_no_length ? 2 : 2 + be16(data + at + 2);
  }
  return false;
}

bool decode_window(const std::uint8_t* data, std::size_t size, int denominator,
                   const Box& box, std::vector<std::uint8_t>* buffer, View* view) {
  if (!has_end(data, size)) return false;
  // Whatever this leaves alone, damaged files as well, is for libjpeg.
  if (denominator == 1 && decode_baseline_window(data, size, box, buffer, view)) return true;
  return decode_window_by_libjpeg(data, size, denominator, box, buffer, view);
}

bool decode_window_by_libjpeg(const std::uint8_t* data, std::size_t size, int denominator,
                              const Box& box, std::vector<std::uint8_t>* buffer,
                              View* view) {
  if (!has_end(data, size)) return false;
  jpeg_decompress_struct decoder;
  ErrorManager errors;
  jpeg_progress_mgr progress = {};
  progress.progress_monitor = limit_scans;
  decoder.err = jpeg_std_error(&errors.base);
  errors.base.error_exit = leave;
  errors.base.emit_message = count_warnings;
  errors.base.output_message = say_nothing;
  jpeg_create_decompress(&decoder);
  // Nothing with a destructor is made after this line: an error jumps back here.
  if (setjmp(errors.escape)) {
    jpeg_destroy_decompress(&decoder);
    return false;
  }
  decoder.progress = &progress;
  decoder.mem->max_memory_to_use = kMaxMemory;
  jpeg_mem_src(&decoder, data, size);
  jpeg_read_header(&decoder, TRUE);
  if (decoder.num_components == 4) leave(reinterpret_cast<j_common_ptr>(&decoder));
  decoder.out_color_space = JCS_EXT_RGBX;
  decoder.dct_method = JDCT_ISLOW;
  decoder.do_fancy_upsampling = TRUE;
  decoder.scale_num = 1;
  decoder.scale_denom = denominator;
  jpeg_start_decompress(&decoder);
  const int bottom = box.top + box.height, right = box.left + box.width;
  if (box.top < 0 || box.left < 0 || box.height < 1 || box.width < 1 ||
      bottom > static_cast<int>(decoder.output_height) ||
      right > static_cast<int>(decoder.output_width)) {
    leave(reinterpret_cast<j_common_ptr>(&decoder));
  }
  JDIMENSION left = 0;
  crop_columns(&decoder, box, &left);
  const std::size_t pitch = static_cast<std::size_t>(decoder.output_width) * 4;
  bool fits = true;
  try {
    buffer->resize(pitch * box.height + kSlack);
  } catch (const std::exception&) {
    fits = false;
  }
  if (!fits) leave(reinterpret_cast<j_common_ptr>(&decoder));
  read_rows(&decoder, box, buffer->data(), pitch);
  if (decoder.output_scanline == decoder.output_height) {
    jpeg_finish_decompress(&decoder);  // which notices what is left over
  } else {
    jpeg_abort_decompress(&decoder);
  }
  const bool clean = errors.base.num_warnings == 0;
  jpeg_destroy_decompress(&decoder);
  *view = {buffer->data() + (box.left - left) * 4, box.height, box.width, pitch};
  return clean;
}

}  // namespace nfnets
