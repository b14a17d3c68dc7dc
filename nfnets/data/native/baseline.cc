#include "baseline.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "baseline_colour.h"
#include "baseline_header.h"
#include "baseline_scan.h"

namespace nfnets {
namespace {

constexpr int kBlock = 8;

int divide_up(int number, int divisor) { return (number + divisor - 1) / divisor; }

// Where the window lies among the MCUs, of h x v blocks of luma.
struct Geometry {
  int h, v;
  int mcus_wide, mcus_high;
  int first_column, last_column;  // MCUs to decode, the last excluded
  int first_row, last_row;        // the same; libjpeg reads the same rows of MCUs
  int chroma_width, chroma_height;
};

Geometry make_geometry(const BaselineHeader& header, const Box& box) {
  const bool is_grey = header.components == 1;  // its factors mean nothing
  const int h = is_grey ? 1 : header.component[0].h;
  const int v = is_grey ? 1 : header.component[0].v;
  const int wide = divide_up(header.width, kBlock * h);
  const int high = divide_up(header.height, kBlock * v);
  // Where chroma is subsampled, a pixel needs the nearest sample and its neighbour, which
  // two pixels more on each side are sure to include.
  const int x_margin = h == 2 ? 2 : 0, y_margin = v == 2 ? 2 : 0;
  const int left = std::max(0, box.left - x_margin), top = std::max(0, box.top - y_margin);
  const int right = box.left + box.width + x_margin;
  const int bottom = box.top + box.height + y_margin;
  return {h,
          v,
          wide,
          high,
          left / (kBlock * h),
          std::min(wide, divide_up(right, kBlock * h)),
          top / (kBlock * v),
          std::min(high, divide_up(bottom, kBlock * v)),
          divide_up(header.width, h),
          divide_up(header.height, v)};
}

// The samples of a component: the columns of the window's MCUs; and row i of the picture
// in row i % rows, which are those of the present MCUs, and of those above if needed.
struct Plane {
  std::uint8_t* samples;
  std::size_t pitch;
  int rows;

  std::uint8_t* row(int i) const { return samples + (i % rows) * pitch; }
};

// What a decode needs besides the pixels.
struct Workspace {
  BaselineHeader header;
  Geometry geometry;
  Scan scan;
  DcTable dc[3];
  AcTable ac[3];
  Plane planes[3];
  std::vector<std::uint8_t> samples;
  std::vector<std::uint16_t> sums;
  std::vector<std::uint8_t> chroma[2];  // a row of it, upsampled
};

// Components may share tables: table i is of the first that has the same.
int find_table(const BaselineHeader& header, int i, int Component::*table) {
  int first = 0;
  while (header.component[first].*table != header.component[i].*table) first++;
  return first;
}

bool make_tables(Workspace* work) {
  const BaselineHeader& header = work->header;
  for (int i = 0; i < header.components; i++) {
    const Component& component = header.component[i];
    if (find_table(header, i, &Component::dc) == i &&
        !make_dc_table(header.dc[component.dc], &work->dc[i])) {
      return false;
    }
    if (find_table(header, i, &Component::ac) == i &&
        !make_ac_table(header.ac[component.ac], &work->ac[i])) {
      return false;
    }
    for (int k = 0; k < 64; k++) {
      work->scan.quant[i].at[kPlaces[k]] = header.quant[component.quant][k];
    }
  }
  return true;
}

void make_planes(Workspace* work) {
  const Geometry& geometry = work->geometry;
  const int columns = geometry.last_column - geometry.first_column;
  const int rows_of_mcus = geometry.v == 2 ? 2 : 1;
  std::size_t total = 0;
  for (int i = 0; i < work->header.components; i++) {
    const int h = i == 0 ? geometry.h : 1, v = i == 0 ? geometry.v : 1;
    Plane& plane = work->planes[i];
    plane.rows = rows_of_mcus * v * kBlock;
    plane.pitch = static_cast<std::size_t>(columns) * h * kBlock + kRowSlack;
    total += plane.rows * plane.pitch;
  }
  work->samples.resize(total);
  std::uint8_t* samples = work->samples.data();
  for (int i = 0; i < work->header.components; i++) {
    work->planes[i].samples = samples;
    samples += work->planes[i].rows * work->planes[i].pitch;
  }
  if (geometry.h == 1) return;
  const std::size_t width = static_cast<std::size_t>(columns) * kBlock;
  work->sums.resize(width + 2 + kRowSlack);
  for (auto& row : work->chroma) row.resize(2 * width + 2 * kRowSlack);
}

void start_scan(const std::uint8_t* end, Workspace* work) {
  const Geometry& geometry = work->geometry;
  Scan& scan = work->scan;
  scan.source.end = end;
  start_bits(work->header.scan, &scan);
  scan.mcus_wide = geometry.mcus_wide;
  scan.first = geometry.first_column;
  scan.last = geometry.last_column;
  scan.restart_interval = scan.until_restart = work->header.restart_interval;
  scan.inverse_dct = pick_inverse_dct();
  for (int i = 0; i < work->header.components; i++) {
    const int h = i == 0 ? geometry.h : 1, v = i == 0 ? geometry.v : 1;
    const DcTable* dc = &work->dc[find_table(work->header, i, &Component::dc)];
    const AcTable* ac = &work->ac[find_table(work->header, i, &Component::ac)];
    for (int j = 0; j < h * v; j++) {
      scan.block[scan.blocks++] = {i, dc, ac, nullptr, h * kBlock};
    }
    scan.pitch[i] = work->planes[i].pitch;
  }
}

// Points the blocks to where the samples of a row of MCUs go.
void place_blocks(int mcu_row, Workspace* work) {
  BlockPlan* block = work->scan.block;
  for (int i = 0; i < work->header.components; i++) {
    const int h = i == 0 ? work->geometry.h : 1, v = i == 0 ? work->geometry.v : 1;
    for (int j = 0; j < h * v; j++, block++) {
      const int row = (mcu_row * v + j / h) * kBlock;
      block->samples = work->planes[i].row(row) + j % h * kBlock;
    }
  }
}

// Upsamples what row y of the window needs of a row of chroma: from the sample `first`
// on, `width` of them. Beyond the picture's edges, samples are as on them.
void upsample(int y, int first, int width, const Plane& plane, const Geometry& geometry,
              std::uint16_t* sums, std::uint8_t* samples) {
  const bool is_tall = geometry.v == 2;
  const int row = is_tall ? y / 2 : y;
  const int other = std::clamp(is_tall ? row - 1 + y % 2 * 2 : row, 0,
                               geometry.chroma_height - 1);
  const int origin = geometry.first_column * kBlock;  // of the plane
  const int begin = std::max(first - 1, 0);
  const int end = std::min(first + width + 1, geometry.chroma_width);
  std::uint16_t* at = sums + 1 - (first - begin);
  sum_rows_fast(plane.row(row) + (begin - origin), plane.row(other) + (begin - origin),
                end - begin, at);
  if (first == 0) sums[0] = sums[1];
  if (end < first + width + 1) at[end - begin] = at[end - begin - 1];
  // In libjpeg's order of rounding up and down, which is another one for each.
  const int even_bias = is_tall ? 8 : 4, odd_bias = is_tall ? 7 : 8;
  upsample_row_fast(sums + 1, width, even_bias, odd_bias, samples);
}

void write_row(int y, const Box& box, Workspace* work, std::uint8_t* pixels) {
  const Geometry& geometry = work->geometry;
  const Plane* planes = work->planes;
  const int left = geometry.first_column * kBlock * geometry.h;
  const std::uint8_t* luma = planes[0].row(y) + (box.left - left);
  if (work->header.components == 1) return expand_grey_fast(luma, box.width, pixels);
  const std::uint8_t* chroma[2];
  for (int i = 0; i < 2; i++) {
    if (geometry.h == 1) {
      chroma[i] = planes[1 + i].row(y) + (box.left - left);
      continue;
    }
    const int first = box.left / 2, width = (box.left + box.width + 1) / 2 - first;
    std::uint8_t* row = work->chroma[i].data();
    upsample(y, first, width, planes[1 + i], geometry, work->sums.data(), row);
    chroma[i] = row + box.left % 2;
  }
  convert_row_fast(luma, chroma[0], chroma[1], box.width, pixels);
}

// Pixel rows that the MCUs down to `mcu_row` complete: with chroma subsampled along
// columns, all but the last, which needs the chroma below.
int count_rows(int mcu_row, const Geometry& geometry, int height) {
  if (mcu_row == geometry.mcus_high - 1) return height;
  return (mcu_row + 1) * kBlock * geometry.v - (geometry.v == 2 ? 1 : 0);
}

bool decode_rows(const Box& box, Workspace* work, std::uint8_t* pixels, std::size_t pitch) {
  const Geometry& geometry = work->geometry;
  int y = box.top;
  for (int mcu_row = 0; mcu_row < geometry.last_row; mcu_row++) {
    const bool is_above = mcu_row < geometry.first_row;
    bool is_good = false;
    if (!is_above) place_blocks(mcu_row, work);
    read_mcus_fast(&work->scan, is_above, &is_good);
    if (!is_good) return false;
    const int rows = count_rows(mcu_row, geometry, work->header.height);
    for (; y < std::min(rows, box.top + box.height); y++) {
      write_row(y, box, work, pixels + (y - box.top) * pitch);
    }
  }
  return geometry.last_row < geometry.mcus_high || is_at_end(&work->scan);
}

}  // namespace

bool decode_baseline_window(const std::uint8_t* data, std::size_t size, const Box& box,
                            std::vector<std::uint8_t>* buffer, View* view) {
  const auto work = std::make_unique<Workspace>();
  const BaselineHeader& header = work->header;
  if (!read_baseline_header(data, size, &work->header)) return false;
  if (box.top < 0 || box.left < 0 || box.height < 1 || box.width < 1 ||
      box.height > header.height - box.top || box.width > header.width - box.left ||
      !make_tables(work.get())) {
    return false;
  }
  work->geometry = make_geometry(header, box);
  make_planes(work.get());
  start_scan(data + size, work.get());
  // Rows are written in steps of several pixels, beyond their end.
  const std::size_t pitch = 4 * (static_cast<std::size_t>(box.width) + kRowSlack);
  const std::size_t bytes = pitch * box.height + kSlack;
  if (buffer->size() < bytes) buffer->resize(bytes);  // which clears it: not every time
  if (!decode_rows(box, work.get(), buffer->data(), pitch)) return false;
  *view = {buffer->data(), box.height, box.width, pitch};
  return true;
}

}  // namespace nfnets
