// new WeightSet(device): weights that sessions share and that LoRAs change in place.
#pragma once
#include "device.h"
#include "weights/weight_set.h"

namespace fluxd {

class Weights : public Napi::ObjectWrap<Weights> {
 public:
  static constexpr const char *name = "WeightSet";
  static constexpr napi_type_tag tag = {0x5f6b8c1d2e3a4f70, 3};
  static Napi::Function define(Napi::Env env);
  explicit Weights(const Napi::CallbackInfo &info);

  // Throws before upload and after release.
  std::shared_ptr<WeightSet> loaded() const;

 private:
  Napi::Value upload(const Napi::CallbackInfo &info);
  Napi::Value merge(const Napi::CallbackInfo &info);
  Napi::Value stage(const Napi::CallbackInfo &info);
  Napi::Value swap(const Napi::CallbackInfo &info);
  Napi::Value rescale(const Napi::CallbackInfo &info);
  Napi::Value keepBase(const Napi::CallbackInfo &info);
  Napi::Value dropBase(const Napi::CallbackInfo &info);
  Napi::Value bytes(const Napi::CallbackInfo &info);
  Napi::Value release(const Napi::CallbackInfo &info);

  Napi::Value enqueue(const Napi::CallbackInfo &info, void (WeightSet::*act)());

  std::shared_ptr<DeviceState> device_;
  std::shared_ptr<WeightSet> set_;
  Napi::ObjectReference data_;
  // Calls of stage that have not settled.
  int staging_ = 0;
};

}  // namespace fluxd
