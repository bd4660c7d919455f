#include "napi_convert.h"

namespace fluxd {

namespace {

struct Dtype {
  const char *name;
  ONNXTensorElementDataType type;
  size_t bytes;
};

constexpr Dtype dtypes[] = {
    {"F32", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, 4},
    {"F16", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, 2},
    {"BF16", ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16, 2},
    {"F8_E4M3", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E4M3FN, 1},
    {"U8", ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, 1},
    {"I32", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, 4},
    {"I64", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, 8},
};

const Dtype &find(ONNXTensorElementDataType type) {
  for (auto &dtype : dtypes)
    if (dtype.type == type) return dtype;
  throw std::invalid_argument("expected a dtype of the addon but got ONNX type " +
                              std::to_string(type));
}

}  // namespace

ONNXTensorElementDataType toDtype(const Napi::Value &name) {
  const std::string wanted = name.ToString();
  for (auto &dtype : dtypes)
    if (wanted == dtype.name) return dtype.type;
  throw Napi::TypeError::New(name.Env(), "Expected a dtype of the addon but got " + wanted);
}

const char *dtypeName(ONNXTensorElementDataType dtype) { return find(dtype).name; }

size_t bytesOf(ONNXTensorElementDataType dtype) { return find(dtype).bytes; }

std::vector<int64_t> toDims(const Napi::Value &dims) {
  std::vector<int64_t> result;
  for (auto &dim : elements(dims)) {
    result.push_back(dim.ToNumber().Int64Value());
    if (result.back() < 0) throw std::invalid_argument("expected dims that are lengths");
  }
  return result;
}

Napi::Value fromDims(Napi::Env env, const std::vector<int64_t> &dims) {
  auto array = Napi::Array::New(env, dims.size());
  for (uint32_t i = 0; i < dims.size(); i++) array.Set(i, double(dims[i]));
  return array;
}

size_t elementCount(const std::vector<int64_t> &dims) {
  size_t count = 1;
  for (auto dim : dims) count *= size_t(dim);
  return count;
}

std::vector<std::pair<std::string, Napi::Value>> properties(const Napi::Value &object) {
  std::vector<std::pair<std::string, Napi::Value>> result;
  if (!object.IsObject()) return result;
  for (auto entry : object.As<Napi::Object>())
    result.emplace_back(entry.first.ToString(), static_cast<Napi::Value>(entry.second));
  return result;
}

Texts toTexts(const Napi::Value &object) {
  Texts texts;
  for (auto &[key, value] : properties(object)) texts[key] = value.ToString();
  return texts;
}

std::vector<Napi::Value> elements(const Napi::Value &array) {
  std::vector<Napi::Value> result;
  if (!array.IsArray()) return result;
  auto list = array.As<Napi::Array>();
  for (uint32_t i = 0; i < list.Length(); i++) result.push_back(list[i]);
  return result;
}

Bytes toBytes(const Napi::Value &view) {
  if (view.IsTypedArray()) {
    auto array = view.As<Napi::TypedArray>();
    auto start = static_cast<std::byte *>(array.ArrayBuffer().Data());
    return {start + array.ByteOffset(), array.ByteLength()};
  }
  if (view.IsArrayBuffer()) {
    auto buffer = view.As<Napi::ArrayBuffer>();
    return {static_cast<std::byte *>(buffer.Data()), buffer.ByteLength()};
  }
  throw Napi::TypeError::New(view.Env(), "Expected a typed array or an ArrayBuffer");
}

}  // namespace fluxd
