#include "task_thread.h"

namespace fluxd {

struct TaskThread::Pending {
  Job job;
  Napi::Promise::Deferred deferred;
  // Empty where the work succeeded.
  std::unique_ptr<std::string> error = nullptr;
};

TaskThread::TaskThread(Napi::Env env)
    : env_(env), settled_(Settled::New(env, "fluxd", 0, 1, this)), thread_([this] { loop(); }) {
  settled_.Unref(env);
  // The thread must not outlive JavaScript: its results would have nowhere to go.
  napi_add_env_cleanup_hook(env, atExit, this);
}

TaskThread::~TaskThread() {
  napi_remove_env_cleanup_hook(env_, atExit, this);
  stop();
}

void TaskThread::atExit(void *thread) { static_cast<TaskThread *>(thread)->stop(); }

Napi::Promise TaskThread::enqueue(Napi::Env env, Job job) {
  auto deferred = Napi::Promise::Deferred::New(env);
  auto pending = std::make_unique<Pending>(Pending{std::move(job), deferred});
  if (open_++ == 0) settled_.Ref(env);
  {
    std::lock_guard lock(mutex_);
    waiting_.push_back(std::move(pending));
  }
  changed_.notify_one();
  return deferred.Promise();
}

void TaskThread::loop() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return stopped_ || !waiting_.empty(); });
    if (stopped_) return;
    auto pending = std::move(waiting_.front());
    waiting_.pop_front();
    running_ = pending.get();
    lock.unlock();
    try {
      pending->job.work();
    } catch (const std::exception &error) {
      pending->error = std::make_unique<std::string>(error.what());
    }
    lock.lock();
    running_ = nullptr;
    // A closing JavaScript takes no more results. Then this one is left to the end of the process,
    // because only JavaScript's thread may free its references.
    settled_.NonBlockingCall(pending.release());
  }
}

void TaskThread::settle(Napi::Env env, Napi::Function, TaskThread *thread, Pending *raw) {
  // JavaScript is closing and its references cannot be freed any more.
  if (!env) return;
  std::unique_ptr<Pending> pending(raw);
  if (--thread->open_ == 0) thread->settled_.Unref(env);
  Napi::HandleScope scope(env);
  pending->job.ended();
  if (pending->error)
    return pending->deferred.Reject(Napi::Error::New(env, *pending->error).Value());
  try {
    pending->deferred.Resolve(pending->job.result(env));
  } catch (const std::exception &error) {
    pending->deferred.Reject(Napi::Error::New(env, error.what()).Value());
  }
}

void TaskThread::stop() {
  {
    std::lock_guard lock(mutex_);
    if (stopped_) return;
    stopped_ = true;
    if (running_) running_->job.cancel();
  }
  changed_.notify_one();
  thread_.join();
  waiting_.clear();
  settled_.Release();
}

}  // namespace fluxd
