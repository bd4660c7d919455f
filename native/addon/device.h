// new Device() is host memory and the CPU; new Device({ ordinal, library }) a GPU.
#pragma once
#include <napi.h>

#include <memory>

#include "fluxd/kernels.h"
#include "ort/ort.h"
#include "task_thread.h"
#include "weights/memory.h"

namespace fluxd {

// What sessions, weights and tensors of a device have in common.
struct DeviceState {
  DeviceState(Napi::Env env, const fluxd_device &table, int ordinal, bool cuda);

  const fluxd_device &table;
  const int ordinal;
  const bool cuda;
  Owned<OrtMemoryInfo> memory;
  // On which every session of a GPU runs: operators keep scratch memory for each stream.
  std::unique_ptr<Stream> stream;
  TaskThread taskThread;
  // For what may go on during a run.
  TaskThread stagingThread;
};

class Device : public Napi::ObjectWrap<Device> {
 public:
  static constexpr const char *name = "Device";
  static constexpr napi_type_tag tag = {0x5f6b8c1d2e3a4f70, 1};
  static Napi::Function define(Napi::Env env);
  explicit Device(const Napi::CallbackInfo &info);

  std::shared_ptr<DeviceState> state;

 private:
  // → { free, total } in bytes
  Napi::Value memory(const Napi::CallbackInfo &info);
};

}  // namespace fluxd
