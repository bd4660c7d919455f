// The smallest of test frames: TEST("fact") { … }, CHECK(condition),
// CHECK_CLOSE(got, want, tolerance).
#pragma once
#include <cmath>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

struct TestCase {
  const char *fact;
  std::function<void()> body;
};

std::vector<TestCase> &testCases();

struct AddTest {
  AddTest(const char *fact, std::function<void()> body) { testCases().push_back({fact, body}); }
};

[[noreturn]] inline void failCheck(const char *file, int line, const std::string &what) {
  throw std::runtime_error(std::string(file) + ":" + std::to_string(line) + ": " + what);
}

#define CHECK(condition) \
  if (!(condition)) failCheck(__FILE__, __LINE__, #condition)

#define CHECK_CLOSE(got, want, tolerance)                                                  \
  if (!(std::fabs(double(got) - double(want)) <= (tolerance)))                             \
  failCheck(__FILE__, __LINE__,                                                            \
            "expected " + std::to_string(want) + " but got " + std::to_string(got))

#define TEST_NAMED(fact, name)    \
  static void name();             \
  static AddTest add##name(fact, name); \
  static void name()
#define TEST_AT(fact, line) TEST_NAMED(fact, test##line)
#define TEST_LINE(fact, line) TEST_AT(fact, line)
#define TEST(fact) TEST_LINE(fact, __LINE__)
