#include <stdexcept>

#include "custom_op.h"

namespace fluxd {

static std::string show(const std::vector<int64_t> &dims) {
  std::string text;
  for (auto dim : dims) text += (text.empty() ? "[" : ", ") + std::to_string(dim);
  return text.empty() ? "[]" : text + "]";
}

static const OrtValue *inputValue(const OrtKernelContext *context, size_t index) {
  size_t count;
  check(ort().KernelContext_GetInputCount(context, &count));
  if (index >= count) return nullptr;
  const OrtValue *value;
  check(ort().KernelContext_GetInput(context, index, &value));
  return value;
}

const void *Call::input(size_t index) const {
  auto value = inputValue(context_, index);
  if (!value) return nullptr;
  void *data;
  check(ort().GetTensorMutableData(const_cast<OrtValue *>(value), &data));
  return data;
}

std::vector<int64_t> Call::dims(size_t index, size_t rank, const char *what) const {
  auto value = inputValue(context_, index);
  if (!value) throw std::invalid_argument(std::string("expected ") + what + " but it is missing");
  auto info = make<OrtTensorTypeAndShapeInfo>(ort().GetTensorTypeAndShape, value);
  size_t count;
  check(ort().GetDimensionsCount(info.get(), &count));
  std::vector<int64_t> dims(count);
  check(ort().GetDimensions(info.get(), dims.data(), count));
  if (count != rank)
    throw std::invalid_argument(std::string("expected ") + what + " of rank " +
                                std::to_string(rank) + " but it is " + show(dims));
  return dims;
}

void Call::expectDims(size_t index, const std::vector<int64_t> &want, const char *what) const {
  if (!inputValue(context_, index)) return;
  auto got = dims(index, want.size(), what);
  if (got != want)
    throw std::invalid_argument(std::string("expected ") + what + " of shape " + show(want) +
                                " but it is " + show(got));
}

void *Call::output(size_t index, const std::vector<int64_t> &dims) const {
  OrtValue *value;
  check(ort().KernelContext_GetOutput(context_, index, dims.data(), dims.size(), &value));
  void *data;
  check(ort().GetTensorMutableData(value, &data));
  return data;
}

struct Loop {
  void (*body)(void *, int64_t);
  void *data;
};

// ORT's own threads take the part of a pool.
static void parallelFor(void *context, int64_t count, void (*body)(void *, int64_t), void *data) {
  Loop loop = {body, data};
  auto step = [](void *it, size_t i) {
    static_cast<Loop *>(it)->body(static_cast<Loop *>(it)->data, int64_t(i));
  };
  check(ort().KernelContext_ParallelFor(static_cast<OrtKernelContext *>(context), step,
                                        size_t(count), 0, &loop));
}

void Call::launch(const std::function<int(fluxd_queue)> &kernel) const {
  fluxd_pool pool = {context_, parallelFor};
  fluxd_queue queue = &pool;
  if (&kernels != fluxd_cpu_kernels())
    check(ort().KernelContext_GetGPUComputeStream(context_, &queue));
  if (kernel(queue) != 0) throw std::runtime_error(kernels.last_error());
}

}  // namespace fluxd
