#include "convert.h"

#include <cstring>
#include <stdexcept>

#include "cpu/scalar.h"

namespace fluxd {

namespace {

template <typename From, typename To>
void convertAll(const StoredValues &stored, void *to, size_t count) {
  auto source = static_cast<const std::byte *>(stored.from);
  auto target = static_cast<To *>(to);
  for (size_t i = 0; i < count; i++) {
    From value;
    std::memcpy(&value, source + i * sizeof value, sizeof value);
    target[i] = fromFloat<To>(toFloat(value) * stored.scale);
  }
}

template <typename To>
void convertTo(const StoredValues &stored, void *to, size_t count) {
  switch (stored.dtype) {
    case StoredDtype::f32: return convertAll<float, To>(stored, to, count);
    case StoredDtype::f16: return convertAll<F16, To>(stored, to, count);
    case StoredDtype::bf16: return convertAll<Bf16, To>(stored, to, count);
    case StoredDtype::e4m3: return convertAll<E4m3, To>(stored, to, count);
  }
}

}  // namespace

size_t bytesOf(StoredDtype dtype) {
  if (dtype == StoredDtype::e4m3) return 1;
  return dtype == StoredDtype::f32 ? 4 : 2;
}

size_t bytesOf(fluxd_dtype dtype) {
  switch (dtype) {
    case FLUXD_F32: return 4;
    case FLUXD_F16:
    case FLUXD_BF16: return 2;
    case FLUXD_E4M3: return 1;
  }
  throw std::invalid_argument("expected a dtype of a weight but got " + std::to_string(dtype));
}

void convert(const StoredValues &stored, void *to, fluxd_dtype dtype, size_t count) {
  const bool asStored = int(stored.dtype) == int(dtype);
  if (asStored && (stored.scale == 1 || dtype == FLUXD_E4M3))
    std::memcpy(to, stored.from, count * bytesOf(dtype));
  else if (dtype == FLUXD_F32)
    convertTo<float>(stored, to, count);
  else
    convertTo<Bf16>(stored, to, count);
}

}  // namespace fluxd
