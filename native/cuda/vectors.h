/*
 * V neighbouring values of a tensor as float32: 8 where rows are whole 16-byte vectors of 16 bits,
 * 2 for pairs, 1 where the width allows nothing else. Eight of them need a 16-byte aligned address.
 */
#pragma once

#include "dtype_convert.h"

namespace fluxd::cuda {

template <int V>
__host__ __device__ inline void load(const bf16 *from, float (&values)[V]) {
  if constexpr (V == 8) {
    const uint4 packed = *reinterpret_cast<const uint4 *>(from);
    const uint32_t words[4] = {packed.x, packed.y, packed.z, packed.w};
    for (int i = 0; i < 4; i++) {
      values[2 * i] = bitCast<float>(words[i] << 16);
      values[2 * i + 1] = bitCast<float>(words[i] & 0xffff0000);
    }
  } else {
    for (int i = 0; i < V; i++) values[i] = toFloat(from[i]);
  }
}

template <int V>
__host__ __device__ inline void load(const f16 *from, float (&values)[V]) {
  if constexpr (V == 8) {
    const uint4 packed = *reinterpret_cast<const uint4 *>(from);
    const uint32_t words[4] = {packed.x, packed.y, packed.z, packed.w};
    for (int i = 0; i < 4; i++) {
      values[2 * i] = toFloat(f16{static_cast<uint16_t>(words[i] & 0xffff)});
      values[2 * i + 1] = toFloat(f16{static_cast<uint16_t>(words[i] >> 16)});
    }
  } else {
    for (int i = 0; i < V; i++) values[i] = toFloat(from[i]);
  }
}

template <int V>
__host__ __device__ inline void load(const float *from, float (&values)[V]) {
  if constexpr (V % 4 == 0) {
    for (int i = 0; i < V; i += 4) {
      const float4 four = *reinterpret_cast<const float4 *>(from + i);
      values[i] = four.x;
      values[i + 1] = four.y;
      values[i + 2] = four.z;
      values[i + 3] = four.w;
    }
  } else {
    for (int i = 0; i < V; i++) values[i] = from[i];
  }
}

template <int V>
__host__ __device__ inline void store(bf16 *to, const float (&values)[V]) {
  if constexpr (V == 8) {
    uint4 packed;
    packed.x = toBf16Pair(values[0], values[1]);
    packed.y = toBf16Pair(values[2], values[3]);
    packed.z = toBf16Pair(values[4], values[5]);
    packed.w = toBf16Pair(values[6], values[7]);
    *reinterpret_cast<uint4 *>(to) = packed;
  } else {
    for (int i = 0; i < V; i++) to[i] = toBf16(values[i]);
  }
}

template <int V>
__host__ __device__ inline void store(f16 *to, const float (&values)[V]) {
  if constexpr (V == 8) {
    uint4 packed;
    packed.x = toF16Pair(values[0], values[1]);
    packed.y = toF16Pair(values[2], values[3]);
    packed.z = toF16Pair(values[4], values[5]);
    packed.w = toF16Pair(values[6], values[7]);
    *reinterpret_cast<uint4 *>(to) = packed;
  } else {
    for (int i = 0; i < V; i++) to[i] = toF16(values[i]);
  }
}

template <int V>
__host__ __device__ inline void store(float *to, const float (&values)[V]) {
  if constexpr (V % 4 == 0) {
    for (int i = 0; i < V; i += 4) {
      *reinterpret_cast<float4 *>(to + i) =
          float4{values[i], values[i + 1], values[i + 2], values[i + 3]};
    }
  } else {
    for (int i = 0; i < V; i++) to[i] = values[i];
  }
}

/** Stores values / scale. */
template <int V>
__host__ __device__ inline void storeScaled(e4m3 *to, const float (&values)[V], float scale) {
  if constexpr (V == 8) {
    uint32_t pairs[4];
    for (int i = 0; i < 4; i++) {
      pairs[i] = toE4m3Pair(values[2 * i] / scale, values[2 * i + 1] / scale);
    }
    uint2 packed;
    packed.x = pairs[0] | pairs[1] << 16;
    packed.y = pairs[2] | pairs[3] << 16;
    *reinterpret_cast<uint2 *>(to) = packed;
  } else {
    for (int i = 0; i < V; i++) {
      to[i] = {static_cast<uint8_t>(toE4m3Pair(values[i] / scale, 0.0f) & 0xff)};
    }
  }
}

}  // namespace fluxd::cuda
