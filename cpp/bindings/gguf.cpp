// GGUF files, read and written, and the spec of a model.
#include <algorithm>
#include <array>
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <map>
#include <memory>
#include <utility>

#include "base/error.h"
#include "bindings/gil.h"
#include "bindings/path.h"
#include "formats/list.h"
#include "gguf/file.h"
#include "gguf/verify.h"
#include "gguf/writer.h"
#include "model/model.h"
#include "model/spec/spec.h"

namespace nb = nanobind;

namespace hrun::bindings {
namespace {

using gguf::Type;

// A tensor of a file that stays open as long as the tensor is referenced.
struct PyTensor {
  nb::object file;
  const gguf::TensorInfo* info;

  const gguf::File& owner() const { return nb::cast<const gguf::File&>(file); }
};

// ---- GGUF to Python

nb::object text_object(std::string_view text) {
  PyObject* decoded =
      PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "strict");
  if (decoded) return nb::steal(decoded);
  PyErr_Clear();
  return nb::bytes(text.data(), text.size());
}

nb::object to_python(const gguf::Value& value) {
  return std::visit(
      [](const auto& v) -> nb::object {
        using T = std::decay_t<decltype(v)>;
        if constexpr (std::is_same_v<T, std::string_view>) {
          return text_object(v);
        } else if constexpr (std::is_same_v<T, gguf::Array>) {
          nb::list out;
          if (v.element() == Type::string)
            v.for_each_string([&](std::string_view s) { out.append(text_object(s)); });
          else
            v.for_each([&](const gguf::Value& element) { out.append(to_python(element)); });
          return out;
        } else {
          return nb::cast(v);
        }
      },
      value);
}

std::string type_text(const gguf::Entry& entry) {
  if (const auto* array = std::get_if<gguf::Array>(&entry.value))
    return message("array<{}>", type_name(array->element()));
  return std::string(type_name(entry.type));
}

// Built on the first access and kept with the object: a vocabulary is 100,000 strings.
nb::object metadata(nb::handle self) {
  if (nb::hasattr(self, "_metadata")) return self.attr("_metadata");
  nb::dict out;
  for (const gguf::Entry& entry : nb::cast<const gguf::File&>(self).metadata())
    out[text_object(entry.key)] = to_python(entry.value);
  self.attr("_metadata") = out;
  return out;
}

nb::list tensors(nb::object self) {
  nb::list out;
  for (const gguf::TensorInfo& info : nb::cast<const gguf::File&>(self).tensors())
    out.append(PyTensor{self, &info});
  return out;
}

nb::tuple shape(const PyTensor& tensor) {
  nb::list dims;
  for (int d = 0; d < tensor.info->n_dims; ++d) dims.append(tensor.info->dims[d]);
  return nb::tuple(dims);
}

nb::ndarray<nb::numpy, const uint8_t, nb::ndim<1>> data(const PyTensor& tensor) {
  const auto bytes = tensor.owner().data(*tensor.info);
  return {bytes.data(), {bytes.size()}, tensor.file};
}

std::string_view format_name(const PyTensor& tensor) {
  return find_format(tensor.info->format)->name;
}

// ---- Python to GGUF

// Text, or the bytes that a reader gave where the file's were not UTF-8.  The view lives as long as
// `value`.
std::string_view text_view(nb::handle value, const std::string& key) {
  Py_ssize_t size = 0;
  if (PyUnicode_Check(value.ptr())) {
    const char* text = PyUnicode_AsUTF8AndSize(value.ptr(), &size);
    if (text) return {text, static_cast<size_t>(size)};
    PyErr_Clear();
    throw ArgumentError("key '{}': the string cannot be encoded as UTF-8", printable(key));
  }
  if (PyBytes_Check(value.ptr()))
    return {PyBytes_AS_STRING(value.ptr()), static_cast<size_t>(PyBytes_GET_SIZE(value.ptr()))};
  throw ArgumentError("key '{}': expected str or bytes, got {}", printable(key),
                      nb::type_name(value.type()).c_str());
}

gguf::Value scalar_value(nb::handle value, Type type, const std::string& key) {
  const auto wrong = [&](std::string_view expected) {
    throw ArgumentError("key '{}' of type {}: expected {}, got {}", printable(key), type_name(type),
                        expected, nb::type_name(value.type()).c_str());
  };
  if (type == Type::string) return text_view(value, key);
  if (type == Type::boolean) {
    if (!PyBool_Check(value.ptr())) wrong("bool");
    return value.ptr() == Py_True;
  }
  if (gguf::is_float(type)) {
    const double number = PyFloat_AsDouble(value.ptr());
    if (number == -1 && PyErr_Occurred()) {
      PyErr_Clear();
      wrong("a number");
    }
    return number;
  }
  // NumPy integers are not int, but know how to become one.
  if (PyBool_Check(value.ptr())) wrong("an integer");
  const nb::object index = nb::steal(PyNumber_Index(value.ptr()));
  if (!index.is_valid()) {
    PyErr_Clear();
    wrong("an integer");
  }
  int overflow = 0;
  const long long number = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
  if (overflow == 0) return static_cast<int64_t>(number);
  const unsigned long long big = overflow > 0 ? PyLong_AsUnsignedLongLong(index.ptr()) : 0;
  if (overflow < 0 || PyErr_Occurred()) {
    PyErr_Clear();
    throw ArgumentError("key '{}': the value does not fit type {}", printable(key),
                        type_name(type));
  }
  return static_cast<uint64_t>(big);
}

Type require_type(std::string_view name, const std::string& key) {
  if (const auto type = gguf::find_type(name); type && *type != Type::array) return *type;
  throw ArgumentError(
      "key '{}': unknown type '{}'; known: u8, i8, u16, i16, u32, i32, u64, i64, f32, f64, bool, "
      "string, array<...>",
      printable(key), printable(name));
}

// A writer that several Python threads may hold: calls take turns.
struct PyWriter {
  PyWriter(const std::string& path, uint32_t alignment) : writer(path, alignment) {}

  gguf::Writer writer;
  CallMutex mutex;
};

void add(PyWriter& self, const std::string& key, const std::string& type, nb::object value) {
  constexpr std::string_view kOpen = "array<";
  if (std::string_view(type).substr(0, kOpen.size()) != kOpen || type.back() != '>') {
    const Type known = require_type(type, key);
    const gguf::Value scalar = scalar_value(value, known, key);
    self.mutex.call([&] { self.writer.add(key, known, scalar); });
    return;
  }
  const Type element = require_type(
      std::string_view(type).substr(kOpen.size(), type.size() - kOpen.size() - 1), key);
  std::vector<uint8_t> bytes;
  uint64_t size = 0;
  for (nb::handle item : nb::iter(value)) {
    append_scalar(bytes, element, scalar_value(item, element, key), key);
    ++size;
  }
  const gguf::Value array = gguf::Array(element, size, bytes);
  self.mutex.call([&] { self.writer.add(key, Type::array, array); });
}

void add_tensor(PyWriter& self, const std::string& name, const std::vector<uint64_t>& dims,
                const std::string& format_name) {
  const FormatInfo* info = find_format(std::string_view(format_name));
  if (!info)
    throw ArgumentError("tensor '{}': unknown format '{}'; known: {}", printable(name),
                        printable(format_name), format_names());
  self.mutex.call([&] { self.writer.add_tensor(name, dims, info->id); });
}

using Bytes = nb::ndarray<const uint8_t, nb::c_contig, nb::device::cpu>;

void write_tensor(PyWriter& self, const std::string& name, const Bytes& data) {
  self.mutex.call_without_gil([&] { self.writer.write_tensor(name, {data.data(), data.size()}); });
}

void finish(PyWriter& self) {
  self.mutex.call_without_gil([&] { self.writer.finish(); });
}

void finish_with_holes(PyWriter& self) {
  self.mutex.call_without_gil([&] { self.writer.finish_with_holes(); });
}

void discard(PyWriter& self) {
  self.mutex.call_without_gil([&] { self.writer.discard(); });
}

// ---- Plans

struct PySpec {
  std::string architecture;
  nb::dict params;
  std::vector<std::string> warnings;
};

std::string_view scaling_name(RopeScaling scaling) {
  constexpr std::string_view kNames[] = {"none", "linear", "llama3", "yarn", "longrope"};
  return kNames[static_cast<size_t>(scaling)];
}

PySpec make_spec(nb::handle path) {
  const std::string name = path_argument(path);
  const auto [spec, bits] = [&] {
    const WithoutGil release;
    const gguf::File file = gguf::File::open_model(name);
    const ModelSpec checked = read_spec(file);
    return std::pair(std::pair(checked.params, checked.description),
                     std::pair(checked.tied_head, checked.warnings));
  }();
  const auto& [p, description] = spec;
  PySpec out;
  out.architecture = std::string(description->name);
  out.warnings = bits.second;
  const auto put = [&](const char* key, auto value) { out.params[key] = value; };
  // Where layers differ, these are the values of the first layer that has heads, and the widest
  // feed-forward block.
  const auto with_heads = std::find_if(p.layers.begin(), p.layers.end(),
                                       [](const LayerParams& l) { return has_attention(l.mixer); });
  const LayerParams& first = with_heads != p.layers.end() ? *with_heads : p.layer(0);
  int64_t n_ff = 0;
  for (const LayerParams& layer : p.layers) n_ff = std::max(n_ff, layer.n_ff);
  const RopeParams rope = p.ropes.empty() ? RopeParams{} : p.ropes.front();
  put("n_layers", p.n_layers);
  put("n_embd", p.n_embd);
  put("n_vocab", p.n_vocab);
  put("n_ff", n_ff);
  put("n_heads", first.n_heads);
  put("n_kv_heads", first.n_kv_heads);
  // Layers that keep keys and values: the number of their heads, added up by head sizes.
  // The last one: values of a key that are never codes.
  std::map<std::array<int64_t, 3>, int64_t> cached;
  for (const LayerParams& layer : p.layers)
    if (has_attention(layer.mixer) && layer.keys_of < 0)
      cached[{layer.k_dim, layer.v_dim, layer.k_plain}] += layer.n_kv_heads;
  nb::list cached_heads;
  for (const auto& [dims, n] : cached)
    cached_heads.append(nb::make_tuple(n, dims[0], dims[1], dims[2]));
  put("cached_heads", cached_heads);
  put("k_dim", first.k_dim);
  put("v_dim", first.v_dim);
  put("n_ctx_train", p.n_ctx_train);
  put("rms_eps", p.norm_eps);
  put("n_rot", rope.n_rot);
  put("rope_base", rope.base);
  put("rope_scaling", nb::cast(scaling_name(rope.scaling)));
  put("rope_factor", rope.factor);
  put("rope_attn_factor", rope.attn_factor);
  put("rope_original_ctx", rope.original_ctx);
  put("yarn_beta_fast", rope.yarn_beta_fast);
  put("yarn_beta_slow", rope.yarn_beta_slow);
  put("tied_head", bits.first);
  return out;
}

std::vector<std::string> strings(std::span<const std::string_view> views) {
  return {views.begin(), views.end()};
}

void init_reader(nb::module_& m) {
  nb::class_<PyTensor>(m, "TensorInfo", "A tensor of a GGUFFile, which it keeps open.")
      .def_prop_ro("name", [](const PyTensor& t) { return text_object(t.info->name); })
      .def_prop_ro("shape", &shape, "GGUF order: shape[0] is the row length")
      .def_prop_ro("format", &format_name)
      .def_prop_ro("format_id", [](const PyTensor& t) { return t.info->format; })
      .def_prop_ro(
          "file_format_id", [](const PyTensor& t) { return t.info->file_format; },
          "the id in the file; differs for ITQ3_S files of the public fork")
      .def_prop_ro("n_bytes", [](const PyTensor& t) { return t.info->bytes; })
      .def_prop_ro(
          "offset", [](const PyTensor& t) { return t.info->offset; },
          "in bytes from the start of the file")
      .def_prop_ro("data", &data, nb::rv_policy::reference,
                   "uint8 [n_bytes], read-only, the mapped file itself")
      .def(
          "verify",
          [](const PyTensor& t) {
            const gguf::File& file = t.owner();
            const WithoutGil release;
            gguf::verify(file, *t.info);
          },
          "Decodes every value; raises ModelFileError where one is NaN or infinite.")
      .def("__repr__", [](const PyTensor& t) {
        return message("<tensor '{}' {} {}>", printable(t.info->name), nb::repr(shape(t)).c_str(),
                       format_name(t));
      });

  nb::class_<gguf::File>(m, "GGUFFile", nb::dynamic_attr(),
                         "A GGUF file (version 2 or 3), mapped and checked. Raises ModelFileError, "
                         "UnsupportedModelError.")
      .def(
          "__init__",
          [](gguf::File* self, nb::handle path) {
            const std::string name = path_argument(path);
            const WithoutGil release;
            new (self) gguf::File(gguf::File::open(name));
          },
          nb::arg("path"))
      .def_prop_ro("path", [](const gguf::File& f) { return path_object(f.path()); })
      .def_prop_ro("version", &gguf::File::version)
      .def_prop_ro("alignment", &gguf::File::alignment)
      .def_prop_ro(
          "metadata", &metadata,
          "dict: key -> int, float, bool, str, list of these, or bytes where text is not UTF-8")
      .def_prop_ro(
          "metadata_types",
          [](const gguf::File& f) {
            nb::dict out;
            for (const gguf::Entry& entry : f.metadata())
              out[text_object(entry.key)] = type_text(entry);
            return out;
          },
          "dict: key -> 'u32', 'string', 'array<string>', ...")
      .def_prop_ro("tensors", &tensors)
      .def("check_readable", &gguf::File::check_readable,
           "Raises ModelFileError where the mapped file could not be read any more (cut short by "
           "another program, a failing disk): what "
           "came from it since it was opened may then be zeros.")
      .def("require_first_part", &gguf::File::require_first_part,
           "The number of files that the model is in. Raises ModelFileError where this is not the "
           "first.")
      .def_prop_ro("file_bytes", &gguf::File::file_bytes)
      .def_prop_ro("unused_bytes", &gguf::File::unused_bytes,
                   "after the last tensor and its padding")
      .def("__repr__", [](const gguf::File& f) {
        return message("<GGUF file '{}', {} tensors, {} bytes>", printable(f.path()),
                       f.tensors().size(), f.file_bytes());
      });
}

void init_writer(nb::module_& m) {
  nb::class_<PyWriter>(
      m, "GGUFWriter",
      "Streams a GGUF file (version 3) to `path`: add, add_tensor, then write_tensor in the same "
      "order, then finish. "
      "Raises ConversionError for what the file system refuses, ArgumentError for wrong use. Calls "
      "from several threads serialise.")
      .def(
          "__init__",
          [](PyWriter* self, nb::handle path, uint32_t alignment) {
            const std::string name = path_argument(path);
            const WithoutGil release;
            new (self) PyWriter(name, alignment);
          },
          nb::arg("path"), nb::arg("alignment") = 32)
      .def("add", &add, nb::arg("key"), nb::arg("type"), nb::arg("value"),
           "type as in GGUFFile.metadata_types")
      .def("add_tensor", &add_tensor, nb::arg("name"), nb::arg("shape"), nb::arg("format"),
           "shape in GGUF order, shape[0] the row length")
      .def("write_tensor", &write_tensor, nb::arg("name"), nb::arg("data"),
           "uint8, exactly the declared bytes")
      .def("finish", &finish, "Pads, flushes to the disk, closes.")
      .def(
          "finish_with_holes", &finish_with_holes,
          "Closes a file in which holes, that take no room on the disk, stand for the tensors that "
          "were not written.")
      .def("abort", &discard, "Closes and removes the file; harmless after finish.")
      .def_prop_ro(
          "file_bytes",
          [](PyWriter& self) { return self.mutex.call([&] { return self.writer.file_bytes(); }); },
          "size of the finished file, as declared so far")
      .def("__enter__", [](nb::object self) { return self; })
      .def(
          "__exit__",
          [](PyWriter& self, nb::handle type, nb::handle, nb::handle) {
            if (type.is_none())
              finish(self);
            else
              discard(self);
          },
          nb::arg("type").none(), nb::arg("value").none(), nb::arg("traceback").none());
}

void init_spec(nb::module_& m) {
  nb::class_<PySpec>(m, "ModelSpec",
                     "What read_spec found: the model is sound and hrun can run it.")
      .def_ro("architecture", &PySpec::architecture)
      .def_prop_ro("params", [](const PySpec& p) { return p.params; })
      .def_ro("warnings", &PySpec::warnings);
  m.def(
      "model_parts",
      [](nb::handle path) {
        const std::string name = path_argument(path);
        const WithoutGil release;
        const gguf::File file = gguf::File::open_model(name);
        std::vector<std::pair<int64_t, int64_t>> parts;
        for (const LayerPart& part : smallest_parts(read_spec(file)))
          parts.emplace_back(part.first, part.end);
        return parts;
      },
      nb::arg("path"),
      "[(first layer, end)] of the smallest parts that Model.load can load and that run one after "
      "the other; the head is the last. Raises ModelFileError, UnsupportedModelError.");
  m.def("read_spec", &make_spec, nb::arg("path"),
        "Checks hyper-parameters, tensors and tokenizer without loading. Raises ModelFileError, "
        "UnsupportedModelError.");

  nb::class_<TensorRule>(m, "TensorRule",
                         "A tensor of an architecture, in GGUF and in Hugging Face checkpoints.")
      .def_prop_ro("role", [](const TensorRule& r) { return std::string(role_name(r.role)); })
      .def_prop_ro(
          "gguf_name", [](const TensorRule& r) { return std::string(r.gguf_name); },
          "'{}' stands for the layer")
      .def_prop_ro(
          "hf_name", [](const TensorRule& r) { return std::string(r.hf_name); },
          "'' if Hugging Face has none")
      .def_prop_ro("per_layer", [](const TensorRule& r) { return is_layer_role(r.role); })
      .def_prop_ro(
          "vector", [](const TensorRule& r) { return r.rows == Dim::one; },
          "one row; stored as plain floats")
      .def_prop_ro(
          "rows", [](const TensorRule& r) { return std::string(dim_name(r.rows)); },
          "name of the length, e.g. \"embd\"")
      .def_prop_ro("cols", [](const TensorRule& r) { return std::string(dim_name(r.cols)); })
      .def_ro("required", &TensorRule::required)
      .def_prop_ro("transform",
                   [](const TensorRule& r) { return std::string(transform_name(r.transform)); })
      .def_prop_ro(
          "slices", [](const TensorRule& r) { return std::string(dim_name(r.slices)); },
          "'one': the tensor is one matrix or vector")
      .def_prop_ro(
          "where", [](const TensorRule& r) { return std::string(where_name(r.where)); },
          "layers that have it")
      .def_prop_ro(
          "hf_if", [](const TensorRule& r) { return std::string(r.hf_if); },
          "boolean of config.json that says whether it exists");
  nb::class_<ConfigRule>(m, "ConfigRule",
                         "A metadata key of an architecture, and where config.json has it.")
      .def_prop_ro("key", [](const ConfigRule& r) { return std::string(r.key); })
      .def_prop_ro("type",
                   [](const ConfigRule& r) {
                     return r.type == ConfigType::integer  ? "u32"
                            : r.type == ConfigType::number ? "f32"
                            : r.type == ConfigType::text   ? "string"
                                                           : "bool";
                   })
      .def_prop_ro("hf_key", [](const ConfigRule& r) { return std::string(r.hf_key); })
      .def_prop_ro("fallback", [](const ConfigRule& r) { return std::string(r.fallback); })
      .def_prop_ro("map", [](const ConfigRule& r) {
        return r.map == ConfigMap::same ? "same" : "inverse_root";
      });
  nb::class_<ModelDescription>(m, "Architecture",
                               "An architecture that hrun runs, from the C++ list.")
      .def_prop_ro("name", [](const ModelDescription& d) { return std::string(d.name); })
      .def_prop_ro("hf_classes", [](const ModelDescription& d) { return strings(d.hf_classes); })
      .def_prop_ro("rope",
                   [](const ModelDescription& d) {
                     return d.rope == RopeStyle::interleaved ? "interleaved" : "halves";
                   })
      .def_prop_ro("tensors",
                   [](const ModelDescription& d) {
                     return std::vector<TensorRule>(d.tensors.begin(), d.tensors.end());
                   })
      .def_prop_ro("config",
                   [](const ModelDescription& d) {
                     return std::vector<ConfigRule>(d.config.begin(), d.config.end());
                   })
      .def_prop_ro("norm",
                   [](const ModelDescription& d) { return d.norm == Norm::rms ? "rms" : "layer"; })
      .def_prop_ro(
          "either_norm", [](const ModelDescription& d) { return d.either_norm; },
          "Norms are layer norms, or rms norms where the configuration has their epsilon.")
      .def_prop_ro("leading_dense", [](const ModelDescription& d) { return d.leading_dense; })
      .def_prop_ro("rope_in_windows", [](const ModelDescription& d) { return d.rope_in_windows; })
      .def_prop_ro("rotary", [](const ModelDescription& d) { return d.rotary; })
      .def_prop_ro("rotary_part", [](const ModelDescription& d) { return d.rotary_part; })
      .def_prop_ro(
          "recurrent", [](const ModelDescription& d) { return mixer_name(d.recurrent); },
          "What layers without attention have in its place; \"\": there are none.")
      .def_prop_ro("recurrent_without_keys",
                   [](const ModelDescription& d) { return d.recurrent_without_keys; })
      .def_prop_ro("one_block", [](const ModelDescription& d) { return d.one_block; })
      .def_prop_ro("experts_by_router",
                   [](const ModelDescription& d) { return d.experts_by_router; })
      .def_prop_ro("experts_beside_dense",
                   [](const ModelDescription& d) { return d.experts_beside_dense; })
      .def_prop_ro("no_rope_period", [](const ModelDescription& d) { return d.no_rope_period; })
      .def_prop_ro(
          "gating", [](const ModelDescription& d) { return static_cast<int>(d.gating); },
          "How experts are weighted where config.json does not say: the number that GGUF has for "
          "it.")
      .def_prop_ro("nonlinearity",
                   [](const ModelDescription& d) {
                     return kNonlinearityNames[static_cast<size_t>(d.nonlinearity)];
                   })
      .def_prop_ro(
          "causal", [](const ModelDescription& d) { return d.causal; }, "False: an encoder.");
  m.def(
      "architectures",
      [] {
        std::vector<ModelDescription> all;
        for (const ModelDescription* d : architectures()) all.push_back(*d);
        return all;
      },
      "The architectures that hrun runs.");
}

}  // namespace

void init_gguf(nb::module_& m) {
  init_reader(m);
  init_writer(m);
  init_spec(m);
}

}  // namespace hrun::bindings
