// The C interface of the libonnxruntime.so.1 that is open in this process: its functions, its
// errors as exceptions, its objects with an owner.
#pragma once
#include <onnxruntime_c_api.h>

#include <memory>
#include <string>

namespace fluxd {

// Opens the library at `path`, or takes the copy that the process has open already; returns its
// version. Throws where the library cannot be opened or is older than our headers.
std::string openOrt(const char *path);

// Throws before openOrt.
const OrtApi &ort();

// The process's environment; providers need it before the first session does.
const OrtEnv *environment();

// ORT's error, with its text, becomes a std::runtime_error.
void check(OrtStatus *status);

// For callbacks that ORT calls: the exception's text as a status.
OrtStatus *toStatus(const std::exception &error);

struct ReleaseOrt {
  void operator()(OrtEnv *it) const { ort().ReleaseEnv(it); }
  void operator()(OrtSession *it) const { ort().ReleaseSession(it); }
  void operator()(OrtSessionOptions *it) const { ort().ReleaseSessionOptions(it); }
  void operator()(OrtRunOptions *it) const { ort().ReleaseRunOptions(it); }
  void operator()(OrtIoBinding *it) const { ort().ReleaseIoBinding(it); }
  void operator()(OrtMemoryInfo *it) const { ort().ReleaseMemoryInfo(it); }
  void operator()(OrtValue *it) const { ort().ReleaseValue(it); }
  void operator()(OrtTensorTypeAndShapeInfo *it) const { ort().ReleaseTensorTypeAndShapeInfo(it); }
  void operator()(OrtCustomOpDomain *it) const { ort().ReleaseCustomOpDomain(it); }
  void operator()(OrtCUDAProviderOptionsV2 *it) const { ort().ReleaseCUDAProviderOptions(it); }
};

template <typename T>
using Owned = std::unique_ptr<T, ReleaseOrt>;

// The object that a function of the C interface makes: its last argument is where it goes.
template <typename T, typename... Parameters, typename... Arguments>
Owned<T> make(OrtStatus *(*create)(Parameters...), Arguments... arguments) {
  T *made = nullptr;
  check(create(arguments..., &made));
  return Owned<T>(made);
}

}  // namespace fluxd
