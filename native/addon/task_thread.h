// A thread that works for a device. Runs, uploads and merges happen on one, one after the other;
// the factors of coming merges are staged on another. All runs share one thread, because a CUDA
// graph belongs to the thread that captured it.
#pragma once
#include <napi.h>

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace fluxd {

// Plain values in, a JavaScript value out; nothing of JavaScript is touched by `work`.
struct Job {
  // On this thread; what it throws rejects the promise.
  std::function<void()> work;
  // On the JavaScript thread, after work.
  std::function<Napi::Value(Napi::Env)> result;
  // On the JavaScript thread, before the promise is settled either way.
  std::function<void()> ended = [] {};
  // Makes a running `work` end soon; any thread.
  std::function<void()> cancel = [] {};
  // JavaScript objects that must live until the promise is settled.
  std::vector<Napi::ObjectReference> kept = {};
};

class TaskThread {
 public:
  explicit TaskThread(Napi::Env env);
  // Cancels what runs, drops what waits, and ends the thread.
  ~TaskThread();
  TaskThread(const TaskThread &) = delete;

  // Always settles, unless the process ends first.
  Napi::Promise enqueue(Napi::Env env, Job job);

 private:
  struct Pending;

  void loop();
  void stop();
  static void atExit(void *thread);
  static void settle(Napi::Env env, Napi::Function, TaskThread *thread, Pending *pending);
  using Settled = Napi::TypedThreadSafeFunction<TaskThread, Pending, settle>;

  Napi::Env env_;
  Settled settled_;
  // Of JavaScript's thread only: while promises are open the process stays alive.
  size_t open_ = 0;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::unique_ptr<Pending>> waiting_;
  Pending *running_ = nullptr;
  bool stopped_ = false;
  std::thread thread_;
};

}  // namespace fluxd
