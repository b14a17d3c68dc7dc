// The Python module nfnets.data.native._native; see native/__init__.py for its use.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <cstring>
#include <exception>
#include <new>
#include <vector>

#include "baseline.h"
#include "batch.h"
#include "jpeg.h"

namespace {

// Buffers held for the duration of a call.
class Buffers {
 public:
  ~Buffers() {
    for (Py_buffer& view : views_) PyBuffer_Release(&view);
  }

  // Null, with a Python error set, where the object has no such buffer.
  void* get(PyObject* object, int flags, Py_ssize_t* size = nullptr) {
    Py_buffer view;
    if (PyObject_GetBuffer(object, &view, flags) != 0) return nullptr;
    views_.push_back(view);
    if (size != nullptr) *size = view.len;
    return view.buf;
  }

  const Py_buffer& last() const { return views_.back(); }

 private:
  std::vector<Py_buffer> views_;
};

PyObject* header(PyObject*, PyObject* object) {
  Buffers buffers;
  Py_ssize_t size = 0;
  const auto* data = static_cast<const std::uint8_t*>(buffers.get(object, PyBUF_SIMPLE, &size));
  if (data == nullptr) return nullptr;
  nfnets::Header found;
  if (!nfnets::read_header(data, size, &found)) Py_RETURN_NONE;
  return Py_BuildValue("iii", found.height, found.width, found.components);
}

// For tests, which compare the two decoders.
PyObject* decode_window(PyObject*, PyObject* arguments) {
  Py_buffer file;
  nfnets::Box box;
  int by_libjpeg = 0;
  if (!PyArg_ParseTuple(arguments, "y*iiiip", &file, &box.top, &box.left, &box.height,
                        &box.width, &by_libjpeg)) {
    return nullptr;
  }
  const auto* data = static_cast<const std::uint8_t*>(file.buf);
  const std::size_t size = file.len;
  std::vector<std::uint8_t> buffer;
  nfnets::View view;
  bool is_decoded = false;
  try {
    is_decoded = by_libjpeg
                     ? nfnets::decode_window_by_libjpeg(data, size, 1, box, &buffer, &view)
                     : nfnets::decode_baseline_window(data, size, box, &buffer, &view);
  } catch (...) {  // a box beyond memory, or beyond reason
  }
  PyBuffer_Release(&file);
  if (!is_decoded) Py_RETURN_NONE;
  PyObject* pixels = PyBytes_FromStringAndSize(nullptr, Py_ssize_t{3} * box.height * box.width);
  if (pixels == nullptr) return nullptr;
  char* out = PyBytes_AS_STRING(pixels);
  for (int row = 0; row < box.height; row++) {
    for (int column = 0; column < box.width; column++, out += 3) {
      std::memcpy(out, view.pixels + row * view.pitch + std::size_t{4} * column, 3);
    }
  }
  return pixels;
}

// Sets a ValueError.
PyObject* refuse(const char* what) {
  PyErr_Format(PyExc_ValueError, "%s: see nfnets/data/native/jobs.py", what);
  return nullptr;
}

// The items of an array, and how many; null with an error set where it has others.
template <typename Item>
Item* get_items(PyObject* object, int flags, Buffers* buffers, std::size_t* count) {
  Py_ssize_t size = 0;
  void* data = buffers->get(object, flags, &size);
  if (data != nullptr && size % sizeof(Item) != 0) refuse("an array of other items");
  *count = size / sizeof(Item);
  return static_cast<Item*>(data);
}

// Bytes, or an array [H, W, 3] of them.
bool get_picture(PyObject* item, Buffers* buffers, nfnets::Picture* picture) {
  Py_ssize_t size = 0;
  const void* data = buffers->get(item, PyBUF_ND, &size);
  if (data == nullptr) return false;
  *picture = {static_cast<const std::uint8_t*>(data), static_cast<std::size_t>(size), 0, 0};
  const Py_buffer& view = buffers->last();
  if (view.ndim == 1 && view.itemsize == 1) return true;
  constexpr Py_ssize_t kMost = 1 << 24;  // of a side
  if (view.ndim != 3 || view.itemsize != 1 || view.shape[2] != 3 || view.shape[0] < 1 ||
      view.shape[1] < 1 || view.shape[0] > kMost || view.shape[1] > kMost) {
    refuse("a picture that is not uint8 [H, W, 3]");
    return false;
  }
  picture->height = static_cast<int>(view.shape[0]);
  picture->width = static_cast<int>(view.shape[1]);
  return true;
}

bool get_pictures(PyObject* sequence, Buffers* buffers, std::vector<nfnets::Picture>* pictures) {
  const Py_ssize_t count = PySequence_Size(sequence);
  if (count < 0) return false;
  pictures->resize(count);
  for (Py_ssize_t i = 0; i < count; i++) {
    PyObject* item = PySequence_GetItem(sequence, i);
    if (item == nullptr) return false;
    const bool is_good = get_picture(item, buffers, &(*pictures)[i]);
    Py_DECREF(item);  // the buffer holds it
    if (!is_good) return false;
  }
  return true;
}

bool get_images(PyObject* object, Buffers* buffers, nfnets::Batch* batch) {
  batch->images =
      static_cast<std::uint8_t*>(buffers->get(object, PyBUF_WRITABLE | PyBUF_ND));
  if (batch->images == nullptr) return false;
  const Py_buffer& view = buffers->last();
  if (view.ndim != 4 || view.itemsize != 1 || view.shape[1] != view.shape[2] ||
      view.shape[3] != 3 || view.shape[1] < 1 || view.shape[1] > 1 << 14) {
    refuse("images that are not uint8 [B, S, S, 3]");
    return false;
  }
  batch->num_slots = view.shape[0];
  batch->size = static_cast<int>(view.shape[1]);
  return true;
}

bool get_batch(PyObject* const objects[7], Buffers* buffers, nfnets::Batch* batch) {
  std::size_t num_damaged = 0, table_bytes = 0;
  if (!get_pictures(objects[0], buffers, &batch->pictures)) return false;
  batch->crops = get_items<nfnets::Crop>(objects[1], PyBUF_SIMPLE, buffers, &batch->num_crops);
  batch->rows = get_items<nfnets::Row>(objects[2], PyBUF_SIMPLE, buffers, &batch->num_rows);
  batch->operations = get_items<nfnets::Operation>(objects[3], PyBUF_SIMPLE, buffers,
                                                   &batch->num_operations);
  batch->tables = get_items<std::uint8_t>(objects[4], PyBUF_SIMPLE, buffers, &table_bytes);
  batch->num_tables = table_bytes / (256 * 3);
  if (PyErr_Occurred() || !get_images(objects[5], buffers, batch)) return false;
  batch->damaged = get_items<std::int32_t>(objects[6], PyBUF_WRITABLE, buffers, &num_damaged);
  if (PyErr_Occurred()) return false;
  const char* mistake = num_damaged == batch->pictures.size()
                            ? nfnets::find_mistake(*batch)
                            : "not one mark of damage per picture";
  if (mistake != nullptr) refuse(mistake);
  return mistake == nullptr;
}

PyObject* make_batch(PyObject*, PyObject* arguments) {
  PyObject* objects[7];
  int threads = 0;
  if (!PyArg_ParseTuple(arguments, "OOOOOOOi", &objects[0], &objects[1], &objects[2],
                        &objects[3], &objects[4], &objects[5], &objects[6], &threads)) {
    return nullptr;
  }
  if (threads < 1) return refuse("less than one thread");
  Buffers buffers;
  nfnets::Batch batch;
  if (!get_batch(objects, &buffers, &batch)) return nullptr;
  std::exception_ptr error;
  Py_BEGIN_ALLOW_THREADS
  try {
    nfnets::make_batch(batch, threads);
  } catch (...) {
    error = std::current_exception();
  }
  Py_END_ALLOW_THREADS
  if (error) return PyErr_NoMemory();
  Py_RETURN_NONE;
}

PyMethodDef methods[] = {
    {"header", header, METH_O, "(JPEG) -> (height, width, components), or None."},
    {"decode_window", decode_window, METH_VARARGS,
     "(JPEG, top, left, height, width, by_libjpeg) -> its RGB pixels, or None."},
    {"make_batch", make_batch, METH_VARARGS,
     "(pictures, crops, rows, operations, tables, images, damaged, threads) -> None."},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_native", nullptr, 0, methods,
                          nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__native(void) {
  PyObject* module = PyModule_Create(&definition);
  // So that Python notices a build of other layouts than its own.
  if (module != nullptr) {
    PyModule_AddIntConstant(module, "CROP_BYTES", sizeof(nfnets::Crop));
    PyModule_AddIntConstant(module, "ROW_BYTES", sizeof(nfnets::Row));
    PyModule_AddIntConstant(module, "OPERATION_BYTES", sizeof(nfnets::Operation));
  }
  return module;
}
