/* Fibers for the threads of a block, and what they wait for. */
#include <cuda_runtime.h>

#include <ucontext.h>

#include <cstdio>
#include <memory>
#include <mutex>
#include <vector>

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

namespace {

constexpr unsigned kWarp = 32;
constexpr size_t kStackBytes = 128 << 10;

enum class State { kReady, kAtBarrier, kAtShuffle, kDone };

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  State state;
  // Two, because a lane may bring its next value before its neighbour has read this one.
  uint32_t brought[2];
  unsigned shuffles;
};

std::vector<Fiber> fibers;
ucontext_t scheduler;
unsigned running;
const std::function<void()> *body;

[[noreturn]] void fail(const char *what) {
  fprintf(stderr, "emulated block (%u, %u), thread %u: %s\n", blockIdx.x, blockIdx.y,
          running, what);
  abort();
}

void run() {
  (*body)();
  fibers[running].state = State::kDone;
}

void wait(State state) {
  Fiber &fiber = fibers[running];
  fiber.state = state;
  swapcontext(&fiber.context, &scheduler);
}

void start(Fiber &fiber) {
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = &scheduler;
  fiber.state = State::kReady;
  fiber.shuffles = 0;
  makecontext(&fiber.context, run, 0);
}

/** Whether all of `count` fibers from `first` are in `state`. */
bool allAre(State state, unsigned first, unsigned count) {
  for (unsigned i = first; i < first + count; i++) {
    if (fibers[i].state != state) return false;
  }
  return true;
}

void release(unsigned first, unsigned count) {
  for (unsigned i = first; i < first + count; i++) fibers[i].state = State::kReady;
}

/** Runs a warp until its lanes have ended or wait for the block. */
void runWarp(unsigned first) {
  for (;;) {
    for (running = first; running < first + kWarp; running++) {
      if (fibers[running].state != State::kReady) continue;
      threadIdx = dim3(running);
      swapcontext(&scheduler, &fibers[running].context);
    }
    if (!allAre(State::kAtShuffle, first, kWarp)) return;
    release(first, kWarp);
  }
}

void runBlock(dim3 block) {
  for (unsigned i = 0; i < block.x; i++) start(fibers[i]);
  const unsigned warps = block.x / kWarp;
  for (;;) {
    // Each warp goes as far as it can before the next begins, from either end: what lacks a barrier
    // then reads too early or too late.
    for (unsigned i = 0; i < warps; i++) {
      runWarp((blockIdx.x % 2 == 0 ? i : warps - 1 - i) * kWarp);
    }
    if (allAre(State::kDone, 0, block.x)) return;
    if (!allAre(State::kAtBarrier, 0, block.x)) fail("some threads wait where others never come");
    release(0, block.x);
  }
}

}  // namespace

void waitForBlock() { wait(State::kAtBarrier); }

uint32_t exchange(uint32_t bits, int distance) {
  Fiber &fiber = fibers[running];
  const unsigned slot = fiber.shuffles++ % 2;
  fiber.brought[slot] = bits;
  const unsigned partner = running ^ static_cast<unsigned>(distance);
  wait(State::kAtShuffle);
  return fibers[partner].brought[slot];
}

void runGrid(dim3 grid, dim3 block, const std::function<void()> &kernel) {
  static std::mutex one;
  const std::lock_guard lock(one);
  if (block.x % kWarp != 0) fail("blocks are whole warps here");
  if (fibers.size() < block.x) fibers = std::vector<Fiber>(block.x);
  body = &kernel;
  blockDim = block;
  gridDim = grid;
  for (unsigned y = 0; y < grid.y; y++) {
    for (unsigned x = 0; x < grid.x; x++) {
      blockIdx = dim3(x, y);
      runBlock(block);
    }
  }
}

}  // namespace emulation
