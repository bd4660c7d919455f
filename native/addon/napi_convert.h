// JavaScript values as plain C++ values. Only the JavaScript thread may call these.
#pragma once
#include <napi.h>
#include <onnxruntime_c_api.h>

#include <map>
#include <string>
#include <vector>

namespace fluxd {

using Texts = std::map<std::string, std::string>;

// The names that addon.ts gives to dtypes; throws a TypeError for others.
ONNXTensorElementDataType toDtype(const Napi::Value &name);
const char *dtypeName(ONNXTensorElementDataType dtype);
size_t bytesOf(ONNXTensorElementDataType dtype);

std::vector<int64_t> toDims(const Napi::Value &dims);
Napi::Value fromDims(Napi::Env env, const std::vector<int64_t> &dims);
size_t elementCount(const std::vector<int64_t> &dims);

// The own properties of an object; none of undefined.
std::vector<std::pair<std::string, Napi::Value>> properties(const Napi::Value &object);
Texts toTexts(const Napi::Value &object);
std::vector<Napi::Value> elements(const Napi::Value &array);

// The memory of an ArrayBuffer or of a view of one; it belongs to JavaScript.
struct Bytes {
  std::byte *data;
  size_t size;
};
Bytes toBytes(const Napi::Value &view);

// The C++ side of an object that one of the addon's constructors made; a TypeError for others.
template <typename T>
T &unwrap(const Napi::Value &value) {
  if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&T::tag))
    throw Napi::TypeError::New(value.Env(), std::string("Expected a ") + T::name);
  return *T::Unwrap(value.As<Napi::Object>());
}

// Calls body; what it throws becomes a JavaScript error with the same text.
template <typename Body>
auto rethrowing(Napi::Env env, Body body) {
  try {
    return body();
  } catch (const Napi::Error &) {
    throw;
  } catch (const std::exception &error) {
    throw Napi::Error::New(env, error.what());
  }
}

}  // namespace fluxd
