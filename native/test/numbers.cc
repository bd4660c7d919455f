// How values are stored: every code, and every border between two.
#include <string>

#include "check.h"
#include "cpu/scalar.h"

using namespace fluxd;

TEST("e4m3 holds its 254 numbers exactly and saturates") {
  for (int bits = 0; bits < 256; bits++) {
    const E4m3 code{uint8_t(bits)};
    if ((bits & 0x7f) == 0x7f) {
      CHECK(std::isnan(toFloat(code)));
    } else {
      CHECK(fromFloat<E4m3>(toFloat(code)).bits == bits);
    }
  }
  CHECK(toFloat(fromFloat<E4m3>(1e6f)) == 448);
  CHECK(toFloat(fromFloat<E4m3>(-464.0f)) == -448);
}

TEST("e4m3 rounds to the nearest number, ties to even") {
  for (int bits = 0; bits < 0x7e; bits++) {
    const float low = toFloat(E4m3{uint8_t(bits)}), high = toFloat(E4m3{uint8_t(bits + 1)});
    const float middle = (low + high) / 2;
    CHECK(fromFloat<E4m3>(middle).bits == bits + bits % 2);
    CHECK(fromFloat<E4m3>(std::nextafter(middle, low)).bits == bits);
    CHECK(fromFloat<E4m3>(std::nextafter(middle, high)).bits == bits + 1);
  }
}

TEST("bfloat16 rounds to the nearest number, ties to even") {
  CHECK(fromFloat<Bf16>(1.00390625f).bits == 0x3f80);
  CHECK(fromFloat<Bf16>(1.01171875f).bits == 0x3f82);
  CHECK(fromFloat<Bf16>(std::nextafter(1.00390625f, 2.0f)).bits == 0x3f81);
  CHECK(std::isnan(toFloat(fromFloat<Bf16>(NAN))));
  CHECK(std::isinf(toFloat(fromFloat<Bf16>(3.4e38f))));
}

TEST("float16 holds its numbers exactly, rounds to the nearest, ties to even, and overflows") {
  for (int bits = 0; bits < 0x10000; bits++) {
    const F16 code{uint16_t(bits)};
    if ((bits & 0x7fff) > 0x7c00) {
      CHECK(std::isnan(toFloat(code)) && std::isnan(toFloat(fromFloat<F16>(toFloat(code)))));
      continue;
    }
    const float value = toFloat(code);
    CHECK(fromFloat<F16>(value).bits == bits);
    if ((bits & 0x7fff) >= 0x7bff) continue;
    const float next = toFloat(F16{uint16_t(bits + 1)}), middle = (value + next) / 2;
    CHECK(fromFloat<F16>(middle).bits == bits + bits % 2);
    CHECK(fromFloat<F16>(std::nextafter(middle, value)).bits == bits);
    CHECK(fromFloat<F16>(std::nextafter(middle, next)).bits == bits + 1);
  }
  CHECK(toFloat(fromFloat<F16>(65504)) == 65504);
  CHECK(fromFloat<F16>(std::nextafter(65520.0f, 0.0f)).bits == 0x7bff);
  CHECK(std::isinf(toFloat(fromFloat<F16>(65520))));
  CHECK(toFloat(fromFloat<F16>(-1e9f)) == -INFINITY);
}
