// How values are stored: float32, bfloat16, float16 and e4m3, each with its way to float32 and
// back.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

namespace fluxd {

inline uint32_t bitsOf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float fromBits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// The upper half of a float32.
struct Bf16 {
  uint16_t bits;
};

// IEEE half precision: sign, 5 bits of exponent (bias 15), 10 bits of mantissa.
struct F16 {
  uint16_t bits;
};

// float8e4m3fn: sign, 4 bits of exponent (bias 7), 3 bits of mantissa; 0x7f is the only NaN.
struct E4m3 {
  uint8_t bits;
};

constexpr float largestE4m3 = 448.0f;

inline float toFloat(float value) { return value; }
inline float toFloat(Bf16 value) { return fromBits(uint32_t{value.bits} << 16); }

inline float toFloat(F16 value) {
  const uint32_t sign = uint32_t{value.bits & 0x8000u} << 16, magnitude = value.bits & 0x7fffu;
  if (magnitude >= 0x7c00) return fromBits(sign | 0x7f800000u | (magnitude & 0x3ff) << 13);
  if (magnitude < 0x400) return fromBits(bitsOf(float(magnitude) * 0x1p-24f) | sign);
  return fromBits(sign | ((magnitude << 13) + ((127u - 15u) << 23)));
}

inline float toFloat(E4m3 value) {
  const uint32_t sign = uint32_t{value.bits & 0x80u} << 24, magnitude = value.bits & 0x7f;
  if (magnitude == 0x7f) return NAN;
  if (magnitude < 8) return fromBits(bitsOf(float(magnitude) * 0x1p-9f) | sign);
  return fromBits(sign | ((magnitude << 20) + ((127 - 7) << 23)));
}

template <typename T>
T fromFloat(float value);

template <>
inline float fromFloat<float>(float value) {
  return value;
}

// Half of the last kept bit is added, less one where that bit is 0: to nearest, ties to even.
template <>
inline Bf16 fromFloat<Bf16>(float value) {
  const uint32_t bits = bitsOf(value);
  if (std::isnan(value)) return {uint16_t((bits >> 16) | 0x40)};
  return {uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

template <>
inline F16 fromFloat<F16>(float value) {
  const uint32_t bits = bitsOf(value), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  if (std::isnan(value)) return {uint16_t(sign | 0x7e00)};
  // From halfway between the largest number, 65504, and the next that there would be.
  if (magnitude >= bitsOf(65520.0f)) return {uint16_t(sign | 0x7c00)};
  // Below 2^-14 values are multiples of 2^-24, which is the last bit of a float32 near 1/2.
  if (magnitude < bitsOf(0x1p-14f))
    return {uint16_t(sign | (bitsOf(fromBits(magnitude) + 0.5f) - bitsOf(0.5f)))};
  const uint32_t rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
  return {uint16_t(sign | ((rounded - ((127u - 15u) << 23)) >> 13))};
}

// Saturates: what is larger than 448 becomes 448.
template <>
inline E4m3 fromFloat<E4m3>(float value) {
  const uint8_t sign = bitsOf(value) >> 31 << 7;
  const float magnitude = std::fabs(value);
  if (std::isnan(value)) return {uint8_t(sign | 0x7f)};
  if (magnitude >= largestE4m3) return {uint8_t(sign | 0x7e)};
  // Below 2^-6 values are multiples of 2^-9; eight of them are the first normal number.
  if (magnitude < 0x1p-6f) return {uint8_t(sign | uint8_t(std::nearbyint(magnitude * 0x1p9f)))};
  const uint32_t bits = bitsOf(magnitude);
  const uint32_t rounded = (bits + 0x7ffff + ((bits >> 20) & 1)) >> 20;
  return {uint8_t(sign | uint8_t(rounded - ((127 - 7) << 3)))};
}

}  // namespace fluxd
