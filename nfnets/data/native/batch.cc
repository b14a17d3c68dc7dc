#include "batch.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <thread>

#include "jpeg.h"
#include "resize.h"
#include "rows.h"

namespace nfnets {
namespace {

// Memory that a thread keeps for the next picture; a larger one's is given back.
constexpr std::size_t kKeptBytes = 16 << 20;

// The pixels of a picture that some crops need, at 1 / denominator of its size.
struct Decoded {
  View view;
  int top, left;
};

Box scaled_box(const Crop& crop) {
  const int d = crop.denominator;
  const int top = crop.top / d, left = crop.left / d;
  return {top, left, (crop.top + crop.height + d - 1) / d - top,
          (crop.left + crop.width + d - 1) / d - left};
}

Box join(const Box& a, const Box& b) {
  const int top = std::min(a.top, b.top), left = std::min(a.left, b.left);
  const int bottom = std::max(a.top + a.height, b.top + b.height);
  const int right = std::max(a.left + a.width, b.left + b.width);
  return {top, left, bottom - top, right - left};
}

bool decode(const Picture& picture, int denominator, const Box& box, Scratch* scratch,
            Decoded* decoded) {
  decoded->top = box.top;
  decoded->left = box.left;
  if (picture.height == 0) {
    return decode_window(picture.data, picture.size, denominator, box, &scratch->window,
                         &decoded->view);
  }
  const std::size_t pitch = static_cast<std::size_t>(box.width) * 4;
  scratch->window.resize(pitch * box.height + kSlack);
  std::uint8_t* out = scratch->window.data();
  for (int y = 0; y < box.height; y++) {
    const std::size_t start = static_cast<std::size_t>(box.top + y) * picture.width + box.left;
    const std::uint8_t* in = picture.data + start * 3;
    for (int x = 0; x < box.width; x++, in += 3, out += 4) std::memcpy(out, in, 3);
  }
  decoded->view = {scratch->window.data(), box.height, box.width, pitch};
  return true;
}

View inside(const Decoded& decoded, const Box& box) {
  const View& view = decoded.view;
  const std::size_t offset = (box.top - decoded.top) * view.pitch + (box.left - decoded.left) * 4;
  return {view.pixels + offset, box.height, box.width, view.pitch};
}

// Hands each row of a result on to where the crop's shift moves it; zeros move in.
template <typename In, typename Out>
class Placer {
 public:
  using Pack = void (*)(const In*, int, Out*);

  Placer(const Crop& crop, int size, Pack pack, Out* out)
      : down_(crop.shift_y),
        // The flip, which comes after the shift, is in the rows already.
        right_(static_cast<Flip>(crop.flip) == Flip::kLast ? -crop.shift_x : crop.shift_x),
        size_(size),
        pack_(pack),
        out_(out) {
    if (down_ != 0 || right_ != 0) {
      std::fill(out, out + static_cast<std::size_t>(size) * size * 3, Out(0));
    }
  }

  void operator()(int row, const In* pixels) const {
    const int y = row + down_, first = std::max(0, -right_);
    const int count = size_ - std::abs(right_);
    if (y < 0 || y >= size_ || count <= 0) return;
    const std::size_t at = (static_cast<std::size_t>(y) * size_ + std::max(0, right_)) * 3;
    pack_(pixels + 4 * first, count, out_ + at);
  }

 private:
  int down_, right_, size_;
  Pack pack_;
  Out* out_;
};

void pack_bytes_to_floats(const std::uint8_t* in, int pixels, float* out) {
  for (int i = 0; i < pixels; i++, in += 4, out += 3) {
    for (int c = 0; c < 3; c++) out[c] = in[c];
  }
}

void resize(const Decoded& decoded, const Crop& crop, int size, Scratch* scratch,
            const RowSink<std::uint8_t>& bytes, const RowSink<float>& floats) {
  const Box box = scaled_box(crop);
  const View view = inside(decoded, box);
  const auto kernel = static_cast<Kernel>(crop.kernel);
  const auto flip = static_cast<Flip>(crop.flip);
  if (!gives_bytes(kernel)) return resize_floats(view, size, kernel, flip, scratch, floats);
  const double d = crop.denominator;
  const Window window{crop.top / d - box.top, crop.left / d - box.left, crop.height / d,
                      crop.width / d};
  resize_bytes(view, window, size, kernel == Kernel::kBicubicAntialias, flip, scratch, bytes);
}

void resize_to_bytes(const Decoded& decoded, const Crop& crop, int size, bool truncate,
                     Scratch* scratch, std::uint8_t* out) {
  resize(decoded, crop, size, scratch,
         Placer<std::uint8_t, std::uint8_t>(crop, size, pack_bytes, out),
         Placer<float, std::uint8_t>(crop, size, truncate ? pack_truncated : pack_rounded, out));
}

void resize_to_floats(const Decoded& decoded, const Crop& crop, int size, Scratch* scratch,
                      std::vector<float>* out) {
  out->resize(static_cast<std::size_t>(size) * size * 3);
  resize(decoded, crop, size, scratch,
         Placer<std::uint8_t, float>(crop, size, pack_bytes_to_floats, out->data()),
         Placer<float, float>(crop, size, pack_floats, out->data()));
}

inline std::uint8_t to_byte(float value, bool truncate) {
  const float whole = truncate ? value : std::nearbyint(value);
  return static_cast<std::uint8_t>(std::min(std::max(whole, 0.0f), 255.0f));
}

void mix(const Row& row, int size, const std::vector<float>& first,
         const std::vector<float>& second, std::uint8_t* out) {
  const bool mixup = static_cast<Mix>(row.mix) == Mix::kMixup;
  const float other = 1.0f - row.ratio;
  std::size_t i = 0;
  for (int y = 0; y < size; y++) {
    for (int x = 0; x < size; x++) {
      const bool shows = y >= row.top && y < row.bottom && x >= row.left && x < row.right;
      for (int c = 0; c < 3; c++, i++) {
        const float value = mixup ? row.ratio * first[i] + other * second[i]
                                  : (shows ? first[i] : second[i]);
        out[i] = to_byte(value, row.truncate != 0);
      }
    }
  }
}

// Several threads may meet one picture.
void mark_damaged(const Batch& batch, int picture) {
  __atomic_store_n(&batch.damaged[picture], 1, __ATOMIC_RELAXED);
}

bool decode_crop(const Batch& batch, const Crop& crop, Scratch* scratch, Decoded* decoded) {
  const Picture& picture = batch.pictures[crop.picture];
  if (decode(picture, crop.denominator, scaled_box(crop), scratch, decoded)) return true;
  mark_damaged(batch, crop.picture);
  return false;
}

std::uint8_t* slot_of(const Batch& batch, const Row& row) {
  return batch.images + static_cast<std::size_t>(row.slot) * batch.size * batch.size * 3;
}

void apply_operations(const Batch& batch, const Row& row, Scratch* scratch) {
  for (int i = row.operations_begin; i < row.operations_end; i++) {
    apply(batch.operations[i], batch.tables, batch.size, slot_of(batch, row), scratch);
  }
}

void make_mixed(const Batch& batch, const Row& row, Scratch* scratch) {
  const Crop &first = batch.crops[row.first], &second = batch.crops[row.second];
  Decoded decoded;
  bool whole = decode_crop(batch, first, scratch, &decoded);
  if (whole) resize_to_floats(decoded, first, batch.size, scratch, &scratch->first);
  if (!decode_crop(batch, second, scratch, &decoded) || !whole) return;
  resize_to_floats(decoded, second, batch.size, scratch, &scratch->second);
  mix(row, batch.size, scratch->first, scratch->second, slot_of(batch, row));
  apply_operations(batch, row, scratch);
}

// Rows begin..end-1 are of one picture.
void make_copies(const Batch& batch, std::size_t begin, std::size_t end, Scratch* scratch) {
  const Crop& first = batch.crops[batch.rows[begin].first];
  Box box = scaled_box(first);
  for (std::size_t i = begin + 1; i < end; i++) {
    box = join(box, scaled_box(batch.crops[batch.rows[i].first]));
  }
  Decoded decoded;
  if (!decode(batch.pictures[first.picture], first.denominator, box, scratch, &decoded)) {
    mark_damaged(batch, first.picture);
    return;
  }
  for (std::size_t i = begin; i < end; i++) {
    const Row& row = batch.rows[i];
    resize_to_bytes(decoded, batch.crops[row.first], batch.size, row.truncate != 0, scratch,
                    slot_of(batch, row));
    apply_operations(batch, row, scratch);
  }
}

// Where each run of rows that share a decode begins.
std::vector<std::size_t> group_rows(const Batch& batch) {
  std::vector<std::size_t> begins;
  for (std::size_t i = 0; i < batch.num_rows; i++) {
    const Row& row = batch.rows[i];
    bool shares = i > 0 && row.second < 0 && batch.rows[i - 1].second < 0;
    if (shares) {
      const Crop &a = batch.crops[batch.rows[i - 1].first], &b = batch.crops[row.first];
      shares = a.picture == b.picture && a.denominator == b.denominator;
    }
    if (!shares) begins.push_back(i);
  }
  begins.push_back(batch.num_rows);
  return begins;
}

bool is_below(int index, std::size_t count) {
  return index >= 0 && static_cast<std::size_t>(index) < count;
}

void make_group(const Batch& batch, std::size_t begin, std::size_t end, Scratch* scratch) {
  if (batch.rows[begin].second >= 0) {
    make_mixed(batch, batch.rows[begin], scratch);
  } else {
    make_copies(batch, begin, end, scratch);
  }
  if (scratch->window.capacity() > kKeptBytes) *scratch = Scratch();
}

}  // namespace

const char* find_mistake(const Batch& batch) {
  for (std::size_t i = 0; i < batch.num_crops; i++) {
    const Crop& crop = batch.crops[i];
    if (!is_below(crop.picture, batch.pictures.size())) return "a crop of no picture";
    const Picture& picture = batch.pictures[crop.picture];
    if (crop.top < 0 || crop.left < 0 || crop.height < 1 || crop.width < 1 ||
        crop.denominator < 1 || crop.kernel < 0 || crop.kernel > 4) {
      return "a crop that cannot be";
    }
    if (picture.height != 0 && (crop.height > picture.height - crop.top ||
                                crop.width > picture.width - crop.left)) {
      return "a crop beyond its pixels";
    }
  }
  for (std::size_t i = 0; i < batch.num_rows; i++) {
    const Row& row = batch.rows[i];
    if (!is_below(row.slot, batch.num_slots)) return "a row beyond the batch";
    if (!is_below(row.first, batch.num_crops)) return "a row of no crop";
    if (row.second >= 0 && !is_below(row.second, batch.num_crops)) return "a row of no crop";
    if (row.operations_begin < 0 || row.operations_begin > row.operations_end ||
        static_cast<std::size_t>(row.operations_end) > batch.num_operations) {
      return "a row of no operations";
    }
  }
  for (std::size_t i = 0; i < batch.num_operations; i++) {
    const Operation& operation = batch.operations[i];
    const double table = operation.values[0];
    if (static_cast<Code>(operation.code) == Code::kTable &&
        !(table >= 0 && table < static_cast<double>(batch.num_tables))) {
      return "an operation of no table";
    }
  }
  return nullptr;
}

void make_batch(const Batch& batch, int threads) {
  const std::vector<std::size_t> begins = group_rows(batch);
  std::atomic<std::size_t> next(0);
  std::vector<std::exception_ptr> errors(threads);
  const auto work = [&](int worker) {
    try {
      Scratch scratch;
      for (std::size_t i; (i = next++) + 1 < begins.size();) {
        make_group(batch, begins[i], begins[i + 1], &scratch);
      }
    } catch (...) {
      errors[worker] = std::current_exception();
    }
  };
  std::vector<std::thread> workers;
  workers.reserve(threads);
  try {
    for (int i = 1; i < threads; i++) workers.emplace_back(work, i);
  } catch (...) {
    // No more threads are to be had: those that run do the work.
  }
  work(0);
  for (auto& worker : workers) worker.join();
  for (const auto& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

}  // namespace nfnets
