#include "ort.h"

#include <dlfcn.h>

#include <stdexcept>

namespace fluxd {

static const OrtApi *api = nullptr;
static const OrtEnv *env = nullptr;

std::string openOrt(const char *path) {
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) throw std::runtime_error(dlerror());
  auto base = reinterpret_cast<const OrtApiBase *(*)()>(dlsym(library, "OrtGetApiBase"))();
  const std::string version = base->GetVersionString();
  const OrtApi *found = base->GetApi(ORT_API_VERSION);
  if (!found)
    throw std::runtime_error("expected ONNX Runtime 1." + std::to_string(ORT_API_VERSION) +
                             " or newer but " + path + " is " + version);
  api = found;
  // Never released: other users of the library share it.
  if (!env) env = make<OrtEnv>(api->CreateEnv, ORT_LOGGING_LEVEL_ERROR, "fluxd").release();
  return version;
}

const OrtApi &ort() {
  if (!api) throw std::logic_error("expected open() before any other call");
  return *api;
}

const OrtEnv *environment() { return env; }

void check(OrtStatus *status) {
  if (!status) return;
  const std::string message = ort().GetErrorMessage(status);
  ort().ReleaseStatus(status);
  throw std::runtime_error(message);
}

OrtStatus *toStatus(const std::exception &error) {
  return ort().CreateStatus(ORT_FAIL, error.what());
}

}  // namespace fluxd
