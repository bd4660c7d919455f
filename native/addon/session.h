// new Session(device): a graph, loaded and run on the device's thread.
#pragma once
#include <set>

#include "tensor.h"
#include "weights.h"

namespace fluxd {

class Session : public Napi::ObjectWrap<Session> {
 public:
  static constexpr const char *name = "Session";
  static constexpr napi_type_tag tag = {0x5f6b8c1d2e3a4f70, 4};
  static Napi::Function define(Napi::Env env);
  explicit Session(const Napi::CallbackInfo &info);

 private:
  struct Loaded;
  struct Options;
  struct Run;

  Napi::Value load(const Napi::CallbackInfo &info);
  Napi::Value run(const Napi::CallbackInfo &info);
  Napi::Value terminate(const Napi::CallbackInfo &info);
  Napi::Value release(const Napi::CallbackInfo &info);
  std::shared_ptr<Run> toRun(const Napi::CallbackInfo &info) const;
  static Options toOptions(const Napi::Value &js);

  std::shared_ptr<DeviceState> device_;
  std::shared_ptr<Loaded> loaded_;
  // Waiting and running; of JavaScript's thread only.
  std::set<std::shared_ptr<Run>> runs_;
};

}  // namespace fluxd
