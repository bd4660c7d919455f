// From a checkpoint's dtypes to those of a device.
#pragma once
#include <cstddef>
#include <cstdint>

#include "fluxd/kernels.h"

namespace fluxd {

// What a checkpoint may hold; numbers of ONNX's TensorProto.DataType.
enum class StoredDtype { f32 = 1, f16 = 10, bf16 = 16, e4m3 = 17 };

size_t bytesOf(StoredDtype dtype);
size_t bytesOf(fluxd_dtype dtype);

// Values in host memory, as a checkpoint stores them.
struct StoredValues {
  const void *from;
  StoredDtype dtype;
  // What e4m3 values are to be multiplied by; 1 for all others.
  float scale;
};

// Writes `count` values as F32 or BF16, rounded to nearest even, or e4m3 codes as they are; they
// need no alignment.
void convert(const StoredValues &stored, void *to, fluxd_dtype dtype, size_t count);

}  // namespace fluxd
