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

bool get_pictures(PyObject* sequence, Buffers* buffers, std::vector<nfnets::Picture>* pictures) {
  const Py_ssize_t count = PySequence_Size(sequence);
  if (count < 0) return false;
  for (Py_ssize_t i = 0; i < count; i++) {
    PyObject* item = PySequence_GetItem(sequence, i);
    if (item == nullptr) return false;
    Py_ssize_t size = 0;
    const void* data = buffers->get(item, PyBUF_ND, &size);
    Py_DECREF(item);  // the buffer holds it
    if (data == nullptr) return false;
    const Py_buffer& view = buffers->last();
    nfnets::Picture picture{static_cast<const std::uint8_t*>(data),
                            static_cast<std::size_t>(size), 0, 0};
    if (view.ndim == 3) {
      picture.height = static_cast<int>(view.shape[0]);
      picture.width = static_cast<int>(view.shape[1]);
    }
    pictures->push_back(picture);
  }
  return true;
}

PyObject* make_batch(PyObject*, PyObject* arguments) {
  PyObject *pictures, *crops, *rows, *operations, *tables, *images, *damaged;
  int threads = 0;
  if (!PyArg_ParseTuple(arguments, "OOOOOOOi", &pictures, &crops, &rows, &operations, &tables,
                        &images, &damaged, &threads)) {
    return nullptr;
  }
  Buffers buffers;
  nfnets::Batch batch;
  Py_ssize_t rows_size = 0;
  if (!get_pictures(pictures, &buffers, &batch.pictures)) return nullptr;
  batch.crops = static_cast<const nfnets::Crop*>(buffers.get(crops, PyBUF_SIMPLE));
  batch.rows = static_cast<const nfnets::Row*>(buffers.get(rows, PyBUF_SIMPLE, &rows_size));
  batch.operations =
      static_cast<const nfnets::Operation*>(buffers.get(operations, PyBUF_SIMPLE));
  batch.tables = static_cast<const std::uint8_t*>(buffers.get(tables, PyBUF_SIMPLE));
  batch.damaged = static_cast<std::int32_t*>(buffers.get(damaged, PyBUF_WRITABLE));
  batch.images = static_cast<std::uint8_t*>(buffers.get(images, PyBUF_WRITABLE | PyBUF_ND));
  if (PyErr_Occurred()) return nullptr;
  batch.num_rows = rows_size / sizeof(nfnets::Row);
  batch.size = static_cast<int>(buffers.last().shape[1]);
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

PyMODINIT_FUNC PyInit__native(void) { return PyModule_Create(&definition); }
