#include "session.h"

#include "ops/custom_op.h"
#include "napi_convert.h"

namespace fluxd {

// Plain values of load's second argument.
struct Session::Options {
  Texts config;
  Texts cuda;
  int threads = 0;
  GraphOptimizationLevel optimization = ORT_ENABLE_ALL;
  // Of two weights with one name the later one counts.
  std::vector<std::shared_ptr<WeightSet>> weights;
};

// What runs need; freed from the bottom up, because the session points to all of it.
struct Session::Loaded {
  std::shared_ptr<DeviceState> device;
  std::vector<std::shared_ptr<WeightSet>> weights;
  std::vector<Owned<OrtValue>> initializers;
  Owned<OrtSession> session;

  Loaded(std::shared_ptr<DeviceState> device, const Options &options, const std::byte *model,
         size_t bytes);
  void addWeight(OrtSessionOptions *options, const std::string &name, const Weight &weight);
  void addInitializer(OrtSessionOptions *options, const std::string &name, TensorView view);
};

static void appendCuda(OrtSessionOptions *options, const Texts &settings,
                       const DeviceState &device) {
  auto cuda = make<OrtCUDAProviderOptionsV2>(ort().CreateCUDAProviderOptions);
  const std::string ordinal = std::to_string(device.ordinal);
  const std::string stream = std::to_string(reinterpret_cast<uintptr_t>(device.stream->get()));
  std::vector<const char *> keys = {"device_id", "has_user_compute_stream", "user_compute_stream"};
  std::vector<const char *> values = {ordinal.c_str(), "1", stream.c_str()};
  for (auto &[key, value] : settings) {
    keys.push_back(key.c_str());
    values.push_back(value.c_str());
  }
  check(ort().UpdateCUDAProviderOptions(cuda.get(), keys.data(), values.data(), keys.size()));
  check(ort().SessionOptionsAppendExecutionProvider_CUDA_V2(options, cuda.get()));
}

// The name under which a graph finds the scales of a quantised weight.
static std::string scaleName(const std::string &weight) { return weight + ".scale"; }

Session::Loaded::Loaded(std::shared_ptr<DeviceState> device, const Options &from,
                        const std::byte *model, size_t bytes)
    : device(device), weights(from.weights) {
  auto options = make<OrtSessionOptions>(ort().CreateSessionOptions);
  // Errors reach JavaScript; they need not be printed too.
  check(ort().SetSessionLogSeverityLevel(options.get(), ORT_LOGGING_LEVEL_FATAL));
  check(ort().SetIntraOpNumThreads(options.get(), from.threads));
  check(ort().SetSessionGraphOptimizationLevel(options.get(), from.optimization));
  for (auto &[key, value] : from.config)
    check(ort().AddSessionConfigEntry(options.get(), key.c_str(), value.c_str()));
  const auto kernels = device->cuda ? device->table.kernels : nullptr;
  check(ort().AddCustomOpDomain(options.get(), opDomain(kernels)));
  if (device->cuda) appendCuda(options.get(), from.cuda, *device);
  std::map<std::string, const Weight *> chosen;
  for (auto &set : weights)
    for (auto &[name, weight] : set->weights()) chosen[name] = &weight;
  for (auto &[name, weight] : chosen) addWeight(options.get(), name, *weight);
  session = make<OrtSession>(ort().CreateSessionFromArray, environment(), model, bytes,
                             options.get());
}

void Session::Loaded::addWeight(OrtSessionOptions *options, const std::string &name,
                                const Weight &weight) {
  const auto dtype = ONNXTensorElementDataType(weight.dtype);
  addInitializer(options, name, {dtype, weight.dims, weight.values, weight.bytes});
  if (!weight.scale) return;
  const size_t bytes = size_t(weight.dims[0]) * sizeof(float);
  addInitializer(options, scaleName(name),
                 {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, {weight.dims[0]}, weight.scale, bytes});
}

void Session::Loaded::addInitializer(OrtSessionOptions *options, const std::string &name,
                                     TensorView view) {
  initializers.push_back(toOrtValue(view, device->memory.get()));
  check(ort().AddInitializer(options, name.c_str(), initializers.back().get()));
}

// One run: JavaScript's arguments as plain values, and after it the results.
struct Session::Run {
  struct Operand {
    std::string name;
    TensorView view;
    bool onDevice;
  };

  std::shared_ptr<Loaded> loaded;
  std::vector<Operand> inputs, deviceOutputs;
  std::vector<std::string> hostOutputs;
  Owned<OrtRunOptions> options;
  std::vector<Owned<OrtValue>> results;

  void execute();
  void terminate() { check(ort().RunOptionsSetTerminate(options.get())); }
  Napi::Value take(Napi::Env env) const;
};

static Owned<OrtMemoryInfo> hostMemory() {
  return make<OrtMemoryInfo>(ort().CreateCpuMemoryInfo, OrtDeviceAllocator, OrtMemTypeDefault);
}

static std::vector<Owned<OrtValue>> takeOutputs(const OrtIoBinding *binding) {
  OrtAllocator *allocator;
  check(ort().GetAllocatorWithDefaultOptions(&allocator));
  OrtValue **values;
  size_t count;
  check(ort().GetBoundOutputValues(binding, allocator, &values, &count));
  std::vector<Owned<OrtValue>> outputs;
  for (size_t i = 0; i < count; i++) outputs.emplace_back(values[i]);
  allocator->Free(allocator, values);
  return outputs;
}

void Session::Run::execute() {
  auto binding = make<OrtIoBinding>(ort().CreateIoBinding, loaded->session.get());
  const auto host = hostMemory();
  std::vector<Owned<OrtValue>> operands;
  auto value = [&](const Operand &operand) {
    const auto memory = operand.onDevice ? loaded->device->memory.get() : host.get();
    operands.push_back(toOrtValue(operand.view, memory));
    return operands.back().get();
  };
  for (auto &input : inputs)
    check(ort().BindInput(binding.get(), input.name.c_str(), value(input)));
  for (auto &output : hostOutputs)
    check(ort().BindOutputToDevice(binding.get(), output.c_str(), host.get()));
  for (auto &output : deviceOutputs)
    check(ort().BindOutput(binding.get(), output.name.c_str(), value(output)));
  check(ort().RunWithBinding(loaded->session.get(), options.get(), binding.get()));
  results = takeOutputs(binding.get());
}

Napi::Value Session::Run::take(Napi::Env env) const {
  auto object = Napi::Object::New(env);
  for (size_t i = 0; i < hostOutputs.size(); i++)
    object.Set(hostOutputs[i], fromHostValue(env, results[i].get()));
  return object;
}

Session::Session(const Napi::CallbackInfo &info) : Napi::ObjectWrap<Session>(info) {
  info.This().As<Napi::Object>().TypeTag(&tag);
  rethrowing(info.Env(), [&] { device_ = unwrap<Device>(info[0]).state; });
}

Napi::Function Session::define(Napi::Env env) {
  return DefineClass(env, name,
                     {InstanceMethod<&Session::load>("load"), InstanceMethod<&Session::run>("run"),
                      InstanceMethod<&Session::terminate>("terminate"),
                      InstanceMethod<&Session::release>("release")});
}

static GraphOptimizationLevel toLevel(const std::string &name) {
  if (name == "disabled") return ORT_DISABLE_ALL;
  if (name == "basic") return ORT_ENABLE_BASIC;
  return ORT_ENABLE_ALL;
}

Session::Options Session::toOptions(const Napi::Value &value) {
  auto js = value.As<Napi::Object>();
  Options options;
  options.config = toTexts(js.Get("config"));
  options.cuda = toTexts(js.Get("cuda"));
  options.threads = js.Get("threads").ToNumber();
  options.optimization = toLevel(js.Get("optimization").ToString());
  for (auto &set : elements(js.Get("weights")))
    options.weights.push_back(unwrap<Weights>(set).loaded());
  return options;
}

// load(model, { threads, optimization, config?, cuda?, weights? })
Napi::Value Session::load(const Napi::CallbackInfo &info) {
  return rethrowing(info.Env(), [&] {
    const auto [model, bytes] = toBytes(info[0]);
    auto made = std::make_shared<std::shared_ptr<Loaded>>();
    Job job;
    job.work = [=, model = model, bytes = bytes, device = device_, options = toOptions(info[1])] {
      *made = std::make_shared<Loaded>(device, options, model, bytes);
    };
    job.result = [=, this](Napi::Env env) {
      loaded_ = *made;
      return env.Undefined();
    };
    job.kept.push_back(Napi::Persistent(info.This().As<Napi::Object>()));
    job.kept.push_back(Napi::Persistent(info[0].As<Napi::Object>()));
    return device_->taskThread.enqueue(info.Env(), std::move(job));
  });
}

static bool isDeviceTensor(const Napi::Value &value) {
  return value.IsObject() && value.As<Napi::Object>().CheckTypeTag(&Tensor::tag);
}

std::shared_ptr<Session::Run> Session::toRun(const Napi::CallbackInfo &info) const {
  if (!loaded_) throw std::logic_error("expected a loaded session but there is none");
  auto run = std::make_shared<Run>();
  run->loaded = loaded_;
  run->options = make<OrtRunOptions>(ort().CreateRunOptions);
  check(ort().RunOptionsSetRunLogSeverityLevel(run->options.get(), ORT_LOGGING_LEVEL_FATAL));
  for (auto &[name, value] : properties(info[0])) {
    const bool onDevice = isDeviceTensor(value);
    const auto view = onDevice ? unwrap<Tensor>(value).view() : toHostTensor(value);
    run->inputs.push_back({name, view, onDevice});
  }
  for (auto &[name, value] : properties(info[1])) {
    if (value.IsNull())
      run->hostOutputs.push_back(name);
    else
      run->deviceOutputs.push_back({name, unwrap<Tensor>(value).view(), true});
  }
  for (auto &[key, value] : toTexts(info[2]))
    check(ort().AddRunConfigEntry(run->options.get(), key.c_str(), value.c_str()));
  return run;
}

// run(inputs, outputs, config?): inputs are tensors of host or device, outputs null (a host tensor
// comes back) or a device tensor (the values are written there).
Napi::Value Session::run(const Napi::CallbackInfo &info) {
  return rethrowing(info.Env(), [&] {
    auto run = toRun(info);
    runs_.insert(run);
    Job job;
    job.work = [run] { run->execute(); };
    job.cancel = [run] { run->terminate(); };
    job.ended = [run, this] { runs_.erase(run); };
    job.result = [run](Napi::Env env) { return run->take(env); };
    job.kept.push_back(Napi::Persistent(info.This().As<Napi::Object>()));
    // The memory of host tensors, and device tensors that nothing else holds.
    for (size_t i : {0, 1})
      if (info[i].IsObject()) job.kept.push_back(Napi::Persistent(info[i].As<Napi::Object>()));
    return device_->taskThread.enqueue(info.Env(), std::move(job));
  });
}

// Ends the runs that wait or run; their promises are rejected with ORT's text.
Napi::Value Session::terminate(const Napi::CallbackInfo &info) {
  for (auto &run : runs_) run->terminate();
  return info.Env().Undefined();
}

// Frees the session after all that is under way.
Napi::Value Session::release(const Napi::CallbackInfo &info) {
  Job job;
  job.work = [loaded = std::move(loaded_)]() mutable { loaded.reset(); };
  job.result = [](Napi::Env env) { return env.Undefined(); };
  return device_->taskThread.enqueue(info.Env(), std::move(job));
}

}  // namespace fluxd
