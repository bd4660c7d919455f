#include <cstdio>

#include "check.h"

std::vector<TestCase> &testCases() {
  static std::vector<TestCase> cases;
  return cases;
}

int main() {
  int failed = 0;
  for (auto &[fact, body] : testCases()) {
    try {
      body();
      std::printf("ok    %s\n", fact);
    } catch (const std::exception &error) {
      failed++;
      std::printf("FAIL  %s: %s\n", fact, error.what());
    }
  }
  std::printf("%zu facts, %d failed\n", testCases().size(), failed);
  return failed > 0;
}
