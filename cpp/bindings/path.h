// File names between Python and C++: str, bytes or os.PathLike, in the file system's encoding,
// undecodable bytes kept.
#pragma once

#include <nanobind/nanobind.h>

#include <string>

namespace hrun::bindings {

inline std::string path_argument(nanobind::handle path) {
  PyObject* bytes = nullptr;
  if (!PyUnicode_FSConverter(path.ptr(), &bytes)) throw nanobind::python_error();
  const nanobind::object owner = nanobind::steal(bytes);
  return {PyBytes_AS_STRING(bytes), static_cast<size_t>(PyBytes_GET_SIZE(bytes))};
}

inline nanobind::object path_object(const std::string& path) {
  return nanobind::steal(
      PyUnicode_DecodeFSDefaultAndSize(path.data(), static_cast<Py_ssize_t>(path.size())));
}

}  // namespace hrun::bindings
