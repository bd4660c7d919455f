// What JavaScript sees; src/engine/runtime/backends/native/addon.ts describes each of these.
#include "session.h"
#include "napi_convert.h"

namespace fluxd {

// open(path) → version. The path of libonnxruntime.so.1; where onnxruntime-node has opened it
// already, this is the same copy.
static Napi::Value open(const Napi::CallbackInfo &info) {
  return rethrowing(info.Env(), [&] {
    return Napi::String::New(info.Env(), openOrt(info[0].ToString().Utf8Value().c_str()));
  });
}

static Napi::Object exportAll(Napi::Env env, Napi::Object exports) {
  exports.Set("open", Napi::Function::New<open>(env, "open"));
  exports.Set(Device::name, Device::define(env));
  exports.Set(Tensor::name, Tensor::define(env));
  exports.Set(Weights::name, Weights::define(env));
  exports.Set(Session::name, Session::define(env));
  return exports;
}

}  // namespace fluxd

static Napi::Object init(Napi::Env env, Napi::Object exports) {
  return fluxd::exportAll(env, exports);
}

NODE_API_MODULE(fluxd_native, init)
