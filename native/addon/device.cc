#include "device.h"

#include <dlfcn.h>

#include "napi_convert.h"

namespace fluxd {

// The library stays open until the process ends: sessions point to its kernels.
static const fluxd_device &openCuda(const std::string &path, int ordinal) {
  void *library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) throw std::runtime_error(dlerror());
  auto open = reinterpret_cast<decltype(&fluxd_cuda_library)>(dlsym(library, "fluxd_cuda_library"));
  if (!open) throw std::runtime_error(path + ": expected the export fluxd_cuda_library");
  const fluxd_device *device = nullptr;
  const char *error = "";
  if (open(ordinal, &device, &error) != 0) throw std::runtime_error(error);
  if (device->abi_version != FLUXD_ABI_VERSION)
    throw std::runtime_error(path + ": expected interface version " +
                             std::to_string(FLUXD_ABI_VERSION) + " but it has " +
                             std::to_string(device->abi_version) + "; build both libraries anew");
  return *device;
}

static Owned<OrtMemoryInfo> memoryOf(bool cuda, int ordinal) {
  return make<OrtMemoryInfo>(ort().CreateMemoryInfo, cuda ? "Cuda" : "Cpu", OrtDeviceAllocator,
                             ordinal, OrtMemTypeDefault);
}

DeviceState::DeviceState(Napi::Env env, const fluxd_device &table, int ordinal, bool cuda)
    : table(table),
      ordinal(ordinal),
      cuda(cuda),
      memory(memoryOf(cuda, ordinal)),
      stream(cuda ? std::make_unique<Stream>(table) : nullptr),
      taskThread(env),
      stagingThread(env) {}

Device::Device(const Napi::CallbackInfo &info) : Napi::ObjectWrap<Device>(info) {
  info.This().As<Napi::Object>().TypeTag(&tag);
  rethrowing(info.Env(), [&] {
    const bool cuda = info[0].IsObject();
    if (!cuda) {
      state = std::make_shared<DeviceState>(info.Env(), *fluxd_cpu_device(), 0, false);
      return;
    }
    auto gpu = info[0].As<Napi::Object>();
    const int ordinal = gpu.Get("ordinal").ToNumber();
    const auto &table = openCuda(gpu.Get("library").ToString(), ordinal);
    state = std::make_shared<DeviceState>(info.Env(), table, ordinal, true);
  });
}

Napi::Function Device::define(Napi::Env env) {
  return DefineClass(env, name, {InstanceMethod<&Device::memory>("memory")});
}

Napi::Value Device::memory(const Napi::CallbackInfo &info) {
  return rethrowing(info.Env(), [&] {
    size_t free, total;
    check(state->table, state->table.memory(state->table.context, &free, &total));
    auto result = Napi::Object::New(info.Env());
    result.Set("free", double(free));
    result.Set("total", double(total));
    return result;
  });
}

}  // namespace fluxd
