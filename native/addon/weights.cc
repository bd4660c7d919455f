#include "weights.h"

#include <cstring>

#include "napi_convert.h"

namespace fluxd {

Weights::Weights(const Napi::CallbackInfo &info) : Napi::ObjectWrap<Weights>(info) {
  info.This().As<Napi::Object>().TypeTag(&tag);
  rethrowing(info.Env(), [&] { device_ = unwrap<Device>(info[0]).state; });
}

Napi::Function Weights::define(Napi::Env env) {
  return DefineClass(
      env, name,
      {InstanceMethod<&Weights::upload>("upload"), InstanceMethod<&Weights::merge>("merge"),
       InstanceMethod<&Weights::stage>("stage"), InstanceMethod<&Weights::swap>("swap"),
       InstanceMethod<&Weights::rescale>("rescale"),
       InstanceMethod<&Weights::keepBase>("keepBase"),
       InstanceMethod<&Weights::dropBase>("dropBase"),
       InstanceMethod<&Weights::bytes>("bytes"), InstanceMethod<&Weights::release>("release")});
}

std::shared_ptr<WeightSet> Weights::loaded() const {
  if (!set_) throw std::logic_error("expected uploaded weights but there are none");
  return set_;
}

static StoredDtype toStoredDtype(const Napi::Value &name) {
  switch (toDtype(name)) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT: return StoredDtype::f32;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16: return StoredDtype::f16;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16: return StoredDtype::bf16;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E4M3FN: return StoredDtype::e4m3;
    default: throw std::invalid_argument("expected floats for a part of a weight");
  }
}

// { rows, dtype, file, offset, scale? } or { rows, dtype, data }
static WeightPart toPart(const Napi::Value &value, int64_t width) {
  auto js = value.As<Napi::Object>();
  WeightPart part;
  part.rows = js.Get("rows").ToNumber().Int64Value();
  part.stored = toStoredDtype(js.Get("dtype"));
  if (js.Get("scale").IsNumber()) part.scale = js.Get("scale").ToNumber();
  if (!js.Has("data")) {
    part.file = js.Get("file").ToString();
    part.offset = size_t(js.Get("offset").ToNumber().Int64Value());
    return part;
  }
  const auto [data, size] = toBytes(js.Get("data"));
  if (part.rows < 0 || size != size_t(part.rows * width) * bytesOf(part.stored))
    throw std::invalid_argument("expected data of " + std::to_string(part.rows) +
                                " rows but got " + std::to_string(size) + " bytes");
  part.memory = data;
  return part;
}

// { name, dims, dtype, parts }
static WeightSource toSource(const Napi::Value &value) {
  auto js = value.As<Napi::Object>();
  WeightSource source;
  source.name = js.Get("name").ToString();
  source.dims = toDims(js.Get("dims"));
  source.dtype = fluxd_dtype(toDtype(js.Get("dtype")));
  int64_t width = 1;
  for (size_t i = 1; i < source.dims.size(); i++) width *= source.dims[i];
  for (auto &part : elements(js.Get("parts"))) source.parts.push_back(toPart(part, width));
  return source;
}

// { name, begin, rows, rank, up, down, scale? }
static LowRankChange toChange(const Napi::Value &value, const WeightSet &set) {
  auto js = value.As<Napi::Object>();
  auto number = [&](const char *key) { return js.Get(key).ToNumber().Int64Value(); };
  const std::string name = js.Get("name").ToString();
  const auto up = toBytes(js.Get("up")), down = toBytes(js.Get("down"));
  LowRankChange change = {name,
                          number("begin"),
                          number("rows"),
                          number("rank"),
                          reinterpret_cast<float *>(up.data),
                          reinterpret_cast<float *>(down.data)};
  if (!js.Get("scale").IsUndefined()) {
    const auto scale = toBytes(js.Get("scale"));
    if (scale.size != size_t(change.rank) * sizeof(float))
      throw std::invalid_argument(name + ": expected a float32 scale of each rank");
    change.scale = reinterpret_cast<float *>(scale.data);
  }
  const auto &dims = set.at(name).dims;
  const int64_t width = dims.size() == 2 ? dims[1] : 0;
  if (change.rank < 0 || change.rows < 0 ||
      up.size != size_t(change.rows * change.rank) * sizeof(float) ||
      down.size != size_t(change.rank * width) * sizeof(float))
    throw std::invalid_argument(name + ": expected float32 up [rows, rank] and down [rank, " +
                                std::to_string(width) + "]");
  return change;
}

static BasePlace toBasePlace(const std::string &name) {
  if (name == "none") return BasePlace::none;
  if (name == "files") return BasePlace::files;
  if (name == "device") return BasePlace::device;
  throw std::invalid_argument("expected none, files or device for a base but got " + name);
}

static Napi::Value nothing(Napi::Env env) { return env.Undefined(); }

// upload(sources, { base, threads })
Napi::Value Weights::upload(const Napi::CallbackInfo &info) {
  return rethrowing(info.Env(), [&] {
    auto sources = std::make_shared<std::vector<WeightSource>>();
    for (auto &source : elements(info[0])) sources->push_back(toSource(source));
    auto options = info[1].As<Napi::Object>();
    const auto base = toBasePlace(options.Get("base").ToString());
    const UploadOptions limits = {options.Get("threads").ToNumber()};
    auto made = std::make_shared<std::shared_ptr<WeightSet>>();
    Job job;
    job.work = [=, device = device_] {
      *made = std::make_shared<WeightSet>(device->table, std::move(*sources), base, limits);
    };
    job.result = [=, this](Napi::Env env) {
      set_ = *made;
      return env.Undefined();
    };
    job.kept.push_back(Napi::Persistent(info.This().As<Napi::Object>()));
    // Parts in memory, which merges read again.
    job.kept.push_back(Napi::Persistent(info[0].As<Napi::Object>()));
    if (base != BasePlace::none) data_ = Napi::Persistent(info[0].As<Napi::Object>());
    return device_->taskThread.enqueue(info.Env(), std::move(job));
  });
}

// What merge and stage have in common; `changes` is an array of toChange.
static Job changing(const Napi::CallbackInfo &info, std::shared_ptr<WeightSet> set,
                    void (WeightSet::*act)(const std::vector<LowRankChange> &)) {
  auto changes = std::make_shared<std::vector<LowRankChange>>();
  for (auto &change : elements(info[0])) changes->push_back(toChange(change, *set));
  Job job;
  job.work = [set, changes, act] { (*set.*act)(*changes); };
  job.result = nothing;
  job.kept.push_back(Napi::Persistent(info.This().As<Napi::Object>()));
  job.kept.push_back(Napi::Persistent(info[0].As<Napi::Object>()));
  return job;
}

// merge(changes): the base with these changes and no others
Napi::Value Weights::merge(const Napi::CallbackInfo &info) {
  return rethrowing(info.Env(), [&] {
    return device_->taskThread.enqueue(info.Env(), changing(info, loaded(), &WeightSet::merge));
  });
}

// stage(changes): uploads for a swap, also during a run
Napi::Value Weights::stage(const Napi::CallbackInfo &info) {
  return rethrowing(info.Env(), [&] {
    auto job = changing(info, loaded(), &WeightSet::stage);
    job.ended = [this] { staging_--; };
    staging_++;
    return device_->stagingThread.enqueue(info.Env(), std::move(job));
  });
}

// What needs no arguments.
Napi::Value Weights::enqueue(const Napi::CallbackInfo &info, void (WeightSet::*act)()) {
  return rethrowing(info.Env(), [&] {
    Job job;
    job.work = [set = loaded(), act] { ((*set).*act)(); };
    job.result = nothing;
    job.kept.push_back(Napi::Persistent(info.This().As<Napi::Object>()));
    return device_->taskThread.enqueue(info.Env(), std::move(job));
  });
}

// swap(): the base with the staged changes
Napi::Value Weights::swap(const Napi::CallbackInfo &info) {
  return rethrowing(info.Env(), [&] {
    // Staging runs on another thread, so the order of the calls does not decide.
    if (staging_ > 0) throw std::logic_error("expected stage to be awaited before swap");
    return enqueue(info, &WeightSet::swap);
  });
}

static std::vector<float> toFloats(const Napi::Value &value) {
  const auto [data, size] = toBytes(value);
  std::vector<float> floats(size / sizeof(float));
  if (size > 0) std::memcpy(floats.data(), data, floats.size() * sizeof(float));
  return floats;
}

// rescale(scales): the changes in use with other scales
Napi::Value Weights::rescale(const Napi::CallbackInfo &info) {
  return rethrowing(info.Env(), [&] {
    std::vector<std::vector<float>> scales;
    for (auto &each : elements(info[0])) scales.push_back(toFloats(each));
    Job job;
    job.work = [set = loaded(), scales] { set->rescale(scales); };
    job.result = nothing;
    job.kept.push_back(Napi::Persistent(info.This().As<Napi::Object>()));
    return device_->taskThread.enqueue(info.Env(), std::move(job));
  });
}

// keepBase(): merges take the base from a copy on the device
Napi::Value Weights::keepBase(const Napi::CallbackInfo &info) {
  return enqueue(info, &WeightSet::keepBase);
}

// dropBase(): merges take it from its files
Napi::Value Weights::dropBase(const Napi::CallbackInfo &info) {
  return enqueue(info, &WeightSet::dropBase);
}

Napi::Value Weights::bytes(const Napi::CallbackInfo &info) {
  return rethrowing(info.Env(), [&] {
    return Napi::Number::New(info.Env(), double(loaded()->bytes()));
  });
}

// Sessions over the weights keep them until they are released themselves.
Napi::Value Weights::release(const Napi::CallbackInfo &info) {
  Job job;
  job.work = [set = std::move(set_)]() mutable { set.reset(); };
  job.result = nothing;
  return device_->taskThread.enqueue(info.Env(), std::move(job));
}

}  // namespace fluxd
