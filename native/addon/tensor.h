// new Tensor(device, dtype, dims): values that stay on the device between runs.
#pragma once
#include <memory>
#include <vector>

#include "device.h"
#include "weights/memory.h"

namespace fluxd {

// A tensor's values, wherever they lie: what a run is given.
struct TensorView {
  ONNXTensorElementDataType dtype;
  std::vector<int64_t> dims;
  void *data;
  size_t bytes;
};

// An OrtValue over the view; the values stay where they are.
Owned<OrtValue> toOrtValue(const TensorView &view, const OrtMemoryInfo *memory);

// { dtype, dims, data } in JavaScript's memory; throws where dims and data do not agree.
TensorView toHostTensor(const Napi::Value &tensor);
// The same with the values copied.
Napi::Value fromHostValue(Napi::Env env, const OrtValue *value);

class Tensor : public Napi::ObjectWrap<Tensor> {
 public:
  static constexpr const char *name = "Tensor";
  static constexpr napi_type_tag tag = {0x5f6b8c1d2e3a4f70, 2};
  static Napi::Function define(Napi::Env env);
  explicit Tensor(const Napi::CallbackInfo &info);

  // Throws once the tensor has been released.
  TensorView view() const;

 private:
  Napi::Value write(const Napi::CallbackInfo &info);
  Napi::Value copyFrom(const Napi::CallbackInfo &info);
  Napi::Value read(const Napi::CallbackInfo &info);
  Napi::Value release(const Napi::CallbackInfo &info);
  Job job(const Napi::CallbackInfo &info, std::function<void(const Stream &)> work);

  std::shared_ptr<DeviceState> device_;
  ONNXTensorElementDataType dtype_;
  std::vector<int64_t> dims_;
  std::shared_ptr<DeviceMemory> memory_;
};

}  // namespace fluxd
