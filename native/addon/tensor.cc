#include "tensor.h"

#include <cstring>

#include "napi_convert.h"

namespace fluxd {

Owned<OrtValue> toOrtValue(const TensorView &view, const OrtMemoryInfo *memory) {
  return make<OrtValue>(ort().CreateTensorWithDataAsOrtValue, memory, view.data, view.bytes,
                        view.dims.data(), view.dims.size(), view.dtype);
}

TensorView toHostTensor(const Napi::Value &value) {
  auto tensor = value.As<Napi::Object>();
  const auto dtype = toDtype(tensor.Get("dtype"));
  auto dims = toDims(tensor.Get("dims"));
  const auto [data, size] = toBytes(tensor.Get("data"));
  if (elementCount(dims) * bytesOf(dtype) != size)
    throw std::invalid_argument("expected " + std::to_string(elementCount(dims) * bytesOf(dtype)) +
                                " bytes for a tensor of its dims but got " + std::to_string(size));
  return {dtype, std::move(dims), data, size};
}

Napi::Value fromHostValue(Napi::Env env, const OrtValue *value) {
  auto info = make<OrtTensorTypeAndShapeInfo>(ort().GetTensorTypeAndShape, value);
  ONNXTensorElementDataType dtype;
  check(ort().GetTensorElementType(info.get(), &dtype));
  size_t rank;
  check(ort().GetDimensionsCount(info.get(), &rank));
  std::vector<int64_t> dims(rank);
  check(ort().GetDimensions(info.get(), dims.data(), rank));
  auto data = Napi::ArrayBuffer::New(env, elementCount(dims) * bytesOf(dtype));
  void *values;
  check(ort().GetTensorMutableData(const_cast<OrtValue *>(value), &values));
  if (data.ByteLength() > 0) std::memcpy(data.Data(), values, data.ByteLength());
  auto tensor = Napi::Object::New(env);
  tensor.Set("dtype", dtypeName(dtype));
  tensor.Set("dims", fromDims(env, dims));
  tensor.Set("data", data);
  return tensor;
}

Tensor::Tensor(const Napi::CallbackInfo &info) : Napi::ObjectWrap<Tensor>(info) {
  info.This().As<Napi::Object>().TypeTag(&tag);
  rethrowing(info.Env(), [&] {
    device_ = unwrap<Device>(info[0]).state;
    dtype_ = toDtype(info[1]);
    dims_ = toDims(info[2]);
    const size_t bytes = elementCount(dims_) * bytesOf(dtype_);
    memory_ = std::make_shared<DeviceMemory>(device_->table, bytes);
  });
}

Napi::Function Tensor::define(Napi::Env env) {
  return DefineClass(
      env, name,
      {InstanceMethod<&Tensor::write>("write"), InstanceMethod<&Tensor::copyFrom>("copyFrom"),
       InstanceMethod<&Tensor::read>("read"), InstanceMethod<&Tensor::release>("release")});
}

TensorView Tensor::view() const {
  if (!memory_) throw std::logic_error("expected a tensor but it has been released");
  return {dtype_, dims_, memory_->get(), memory_->bytes()};
}

Job Tensor::job(const Napi::CallbackInfo &info, std::function<void(const Stream &)> work) {
  Job job;
  job.work = [device = device_, work] {
    Stream stream(device->table);
    work(stream);
    stream.synchronize();
  };
  job.result = [](Napi::Env env) { return env.Undefined(); };
  job.kept.push_back(Napi::Persistent(info.This().As<Napi::Object>()));
  return job;
}

static void expectBytes(size_t expected, size_t got) {
  if (expected != got)
    throw std::invalid_argument("expected " + std::to_string(expected) + " bytes but got " +
                                std::to_string(got));
}

// write(view): the values become the view's.
Napi::Value Tensor::write(const Napi::CallbackInfo &info) {
  return rethrowing(info.Env(), [&] {
    const auto to = view();
    const auto from = toBytes(info[0]);
    expectBytes(to.bytes, from.size);
    auto write = job(info, [table = &device_->table, to, from](const Stream &stream) {
      check(*table, table->upload(table->context, to.data, from.data, from.size, stream.get()));
    });
    write.kept.push_back(Napi::Persistent(info[0].As<Napi::Object>()));
    return device_->taskThread.enqueue(info.Env(), std::move(write));
  });
}

// copyFrom(tensor): the values become those of the other tensor, on the same device.
Napi::Value Tensor::copyFrom(const Napi::CallbackInfo &info) {
  return rethrowing(info.Env(), [&] {
    const auto &other = unwrap<Tensor>(info[0]);
    if (other.device_ != device_) throw std::invalid_argument("expected a tensor of one device");
    const auto to = view(), from = other.view();
    expectBytes(to.bytes, from.bytes);
    auto copy = job(info, [table = &device_->table, to, from](const Stream &stream) {
      check(*table, table->copy(table->context, to.data, from.data, to.bytes, stream.get()));
    });
    copy.kept.push_back(Napi::Persistent(info[0].As<Napi::Object>()));
    return device_->taskThread.enqueue(info.Env(), std::move(copy));
  });
}

// read() → a new ArrayBuffer with the values
Napi::Value Tensor::read(const Napi::CallbackInfo &info) {
  return rethrowing(info.Env(), [&] {
    const auto from = view();
    auto buffer = Napi::ArrayBuffer::New(info.Env(), from.bytes);
    auto read = job(info, [table = &device_->table, from,
                           to = buffer.Data()](const Stream &stream) {
      check(*table, table->download(table->context, to, from.data, from.bytes, stream.get()));
    });
    auto kept = std::make_shared<Napi::ObjectReference>(
        Napi::Persistent(static_cast<Napi::Object>(buffer)));
    read.result = [kept](Napi::Env) { return kept->Value(); };
    return device_->taskThread.enqueue(info.Env(), std::move(read));
  });
}

// Frees the memory after all that is under way.
Napi::Value Tensor::release(const Napi::CallbackInfo &info) {
  return rethrowing(info.Env(), [&] {
    Job release;
    release.work = [memory = std::move(memory_)]() mutable { memory.reset(); };
    release.result = [](Napi::Env env) { return env.Undefined(); };
    return device_->taskThread.enqueue(info.Env(), std::move(release));
  });
}

}  // namespace fluxd
