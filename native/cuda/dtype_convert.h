/*
 * The number formats of the kernels and the formulas of single elements, for host and device.
 *
 *   bf16   1 sign, 8 exponent, 7 fraction bits: the upper half of a float32
 *   f16    1 sign, 5 exponent (bias 15), 10 fraction bits: IEEE half precision
 *   e4m3   1 sign, 4 exponent (bias 7), 3 fraction bits; no infinity, largest value 448
 *
 * All roundings are to nearest even. The device uses its conversion instructions where it has
 * them; they and the arithmetic below give the same bits.
 */
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <cstring>

namespace fluxd::cuda {

struct bf16 {
  uint16_t bits;
};

struct f16 {
  uint16_t bits;
};

struct e4m3 {
  uint8_t bits;
};

constexpr float kLargestE4m3 = 448.0f;

template <typename To, typename From>
__host__ __device__ inline To bitCast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

__host__ __device__ inline float toFloat(bf16 x) {
  return bitCast<float>(uint32_t{x.bits} << 16);
}

__host__ __device__ inline bf16 toBf16(float x) {
#ifdef __CUDA_ARCH__
  uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return {bits};
#else
  const uint32_t bits = bitCast<uint32_t>(x);
  if (x != x) return {0x7fff};
  // Adds just under one half of the last kept bit, or one half where that bit is odd.
  return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
#endif
}

/** Two bf16, the first in the lower half: the order in memory. */
__host__ __device__ inline uint32_t toBf16Pair(float first, float second) {
#ifdef __CUDA_ARCH__
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  return pair;
#else
  return toBf16(first).bits | uint32_t{toBf16(second).bits} << 16;
#endif
}

__host__ __device__ inline float toFloat(f16 x) {
#ifdef __CUDA_ARCH__
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(x.bits));
  return value;
#else
  const uint32_t sign = (x.bits & 0x8000u) << 16, magnitude = x.bits & 0x7fffu;
  if (magnitude >= 0x7c00) return bitCast<float>(sign | 0x7f800000u | (magnitude & 0x3ff) << 13);
  if (magnitude < 0x400) {
    return bitCast<float>(sign | bitCast<uint32_t>(static_cast<float>(magnitude) * 0x1p-24f));
  }
  return bitCast<float>(sign | ((magnitude << 13) + ((127u - 15u) << 23)));
#endif
}

/** From 65520 on the result is infinite. */
__host__ __device__ inline f16 toF16(float x) {
#ifdef __CUDA_ARCH__
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return {bits};
#else
  const uint32_t bits = bitCast<uint32_t>(x), sign = bits >> 16 & 0x8000;
  const uint32_t magnitude = bits & 0x7fffffff;
  if (x != x) return {0x7fff};
  if (magnitude >= bitCast<uint32_t>(65520.0f)) return {static_cast<uint16_t>(sign | 0x7c00)};
  if (magnitude < bitCast<uint32_t>(0x1p-14f)) {
    // Below the normal numbers steps are 2⁻²⁴, which is the last bit of a float32 near 1/2.
    const float rounded = bitCast<float>(magnitude) + 0.5f;
    return {static_cast<uint16_t>(sign | (bitCast<uint32_t>(rounded) - bitCast<uint32_t>(0.5f)))};
  }
  const uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
  return {static_cast<uint16_t>(sign | ((rounded - ((127u - 15u) << 23)) >> 13))};
#endif
}

/** Two f16, the first in the lower half. */
__host__ __device__ inline uint32_t toF16Pair(float first, float second) {
#ifdef __CUDA_ARCH__
  uint32_t pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  return pair;
#else
  return toF16(first).bits | uint32_t{toF16(second).bits} << 16;
#endif
}

/** Beyond ±448 the result is ±448; NaN stays NaN. */
__host__ __device__ inline e4m3 toE4m3InSoftware(float x) {
  const uint32_t bits = bitCast<uint32_t>(x);
  const uint32_t sign = bits >> 24 & 0x80;
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return {0x7f};
  if (magnitude >= bitCast<uint32_t>(kLargestE4m3)) return {static_cast<uint8_t>(sign | 0x7e)};
  if (magnitude < bitCast<uint32_t>(0x1p-6f)) {
    // Below the normal numbers steps are 2⁻⁹, which is the last bit of a float32 near 2¹⁴.
    const float rounded = bitCast<float>(magnitude) + 0x1p14f;
    return {static_cast<uint8_t>(sign | (bitCast<uint32_t>(rounded) - bitCast<uint32_t>(0x1p14f)))};
  }
  const uint32_t rounded = magnitude + 0x7ffff + (magnitude >> 20 & 1);
  return {static_cast<uint8_t>(sign | ((rounded >> 20) - ((127 - 7) << 3)))};
}

/** Two e4m3, the first in the lower byte; beyond ±448 the result is ±448. */
__host__ __device__ inline uint16_t toE4m3Pair(float first, float second) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  uint16_t pair;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(second), "f"(first));
  return pair;
#else
  return static_cast<uint16_t>(toE4m3InSoftware(first).bits |
                               toE4m3InSoftware(second).bits << 8);
#endif
}

/** The scale of a row whose largest magnitude is `amax`: x / scale fills the range of e4m3. */
__host__ __device__ inline float rowScale(float amax) {
  return amax > 0 ? amax / kLargestE4m3 : 1.0f;
}

/** t/2 · (1 + tanh u) with u = √(2/π)·(t + 0.044715·t³), written as t / (1 + exp(−2u)). */
__host__ __device__ inline float geluTanh(float t) {
  const float u = 0.7978845608f * (t + 0.044715f * t * t * t);
  return t / (1.0f + expf(-2.0f * u));
}

}  // namespace fluxd::cuda
