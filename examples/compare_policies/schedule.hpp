// examples/compare_policies/schedule.hpp - many items, each prepared once and then used by every policy, over a few threads.
// SPDX-License-Identifier: MIT
#pragma once

#include <condition_variable>
#include <cstddef>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

namespace comparison {

/// Hands out prepare(item), then use(item, user) for all users, then release(item), which run on any thread. Items that are prepared
/// are used up before another one is prepared, so that few are held at a time.
class Schedule {
 public:
  enum class Step { prepare, use, release };
  struct Task {
    Step step;
    std::size_t item;
    std::size_t user;
  };

  Schedule(std::size_t items, std::size_t users) : users_(users), items_(items) {}

  /// The next task; waits for one if others must finish first. None when all is done or given up.
  std::optional<Task> next() {
    std::unique_lock lock(mutex_);
    while (!given_up_) {
      bool open = false;
      for (std::size_t i = 0; i < items_.size(); ++i) {
        Item& item = items_[i];
        if (item.prepared && item.started < users_) { return Task{Step::use, i, item.started++}; }
        if (item.prepared && item.finished == users_ && !item.released) {
          item.released = true;
          return Task{Step::release, i, 0};
        }
        open = open || item.finished < users_ || !item.released;
      }
      for (std::size_t i = 0; i < items_.size(); ++i) {
        if (!items_[i].begun) {
          items_[i].begun = true;
          return Task{Step::prepare, i, 0};
        }
      }
      if (!open) { return std::nullopt; }
      changed_.wait(lock);
    }
    return std::nullopt;
  }
  void done(const Task& task) {
    const std::scoped_lock lock(mutex_);
    if (task.step == Step::prepare) { items_[task.item].prepared = true; }
    if (task.step == Step::use) { ++items_[task.item].finished; }
    changed_.notify_all();
  }
  /// No more tasks for anybody.
  void give_up() {
    const std::scoped_lock lock(mutex_);
    given_up_ = true;
    changed_.notify_all();
  }

 private:
  struct Item {
    bool begun = false;
    bool prepared = false;
    bool released = false;
    std::size_t started = 0;
    std::size_t finished = 0;
  };
  std::size_t users_;
  std::vector<Item> items_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool given_up_ = false;
};

/// Works a schedule off: `work(thread, task)` on each of `threads` threads, this one among them. Throws the first exception of a task.
template <class Work>
void run(Schedule& schedule, std::size_t threads, const Work& work) {
  std::mutex mutex;
  std::exception_ptr error;
  const auto loop = [&](std::size_t thread) {
    try {
      while (const std::optional<Schedule::Task> task = schedule.next()) {
        work(thread, *task);
        schedule.done(*task);
      }
    } catch (...) {
      schedule.give_up();
      const std::scoped_lock lock(mutex);
      if (!error) { error = std::current_exception(); }
    }
  };
  {
    std::vector<std::jthread> workers;
    for (std::size_t i = 1; i < threads; ++i) { workers.emplace_back(loop, i); }
    loop(0);
  }
  if (error) { std::rethrow_exception(error); }
}

}  // namespace comparison
