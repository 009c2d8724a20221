#include "pool.h"

#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace kbnet {
namespace {

// The tasks of one call. Every thread takes the next one; works with any number of helpers, even none.
struct Job {
    const std::function<void(int)>& task;
    const int count;
    std::atomic<int> next{0};

    void help() {
        for (int i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) task(i);
    }
};

class Pool {
public:
    void run(int threads, Job& job) {
        std::lock_guard<std::mutex> turn(turn_);
        {
            std::lock_guard<std::mutex> lock(mutex_);
            while (static_cast<int>(workers_.size()) < threads - 1) {
                const int index = static_cast<int>(workers_.size()) + 1;
                try {
                    workers_.emplace_back([this, index, seen = number_] { work(index, seen); });
                } catch (const std::system_error&) {
                    break;  // no more threads for this process; those that exist do the work
                }
            }
            job_ = &job;
            threads_ = threads;
            ++number_;
        }
        wake_.notify_all();
        job.help();
        // Don't wait for helpers that haven't started: on a busy machine that could take long.
        std::unique_lock<std::mutex> lock(mutex_);
        job_ = nullptr;
        done_.wait(lock, [this] { return helping_ == 0; });
    }

private:
    void work(int index, std::uint64_t seen) {
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            wake_.wait(lock, [&] { return number_ != seen; });
            seen = number_;
            Job* const job = job_;
            if (!job || index >= threads_) continue;
            ++helping_;
            lock.unlock();
            job->help();
            lock.lock();
            if (--helping_ == 0) done_.notify_one();
        }
    }

    std::mutex turn_;   // one job at a time
    std::mutex mutex_;  // guards everything below
    std::condition_variable wake_, done_;
    std::vector<std::thread> workers_;
    Job* job_ = nullptr;
    int threads_ = 0;
    int helping_ = 0;  // workers in the current job
    std::uint64_t number_ = 0;
};

std::atomic<Pool*> own_pool{nullptr};
std::atomic<bool> forked{false};

// A forked child has none of its parent's threads, and a mutex may be locked by one of them, so it creates a new pool.
// The parent's pool is never destroyed either, because its workers can still sleep in it when the process exits.
void after_fork_in_child() {
    own_pool.store(nullptr);
    forked.store(true);
}

// At import instead of first use: others may have run the runtime's threads, possibly only in a grandparent process.
const int registered = pthread_atfork(nullptr, nullptr, after_fork_in_child);

Pool& pool() {
    Pool* current = own_pool.load();
    if (!current) {
        Pool* fresh = new Pool;
        if (own_pool.compare_exchange_strong(current, fresh)) return *fresh;
        delete fresh;
    }
    return *current;
}

// libgomp's entry point for `#pragma omp parallel`; LLVM's runtime provides it too.
using ParallelRegion = void (*)(void (*body)(void*), void* data, unsigned threads, unsigned flags);

ParallelRegion openmp() {
    static const ParallelRegion found = [] {
        const char* wish = std::getenv("KBNET_THREAD_SOURCE");
        if (wish && std::strcmp(wish, "own") == 0) return ParallelRegion{};
        return reinterpret_cast<ParallelRegion>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
    }();
    return forked.load(std::memory_order_relaxed) ? nullptr : found;
}

}  // namespace

void run_on_threads(int count, const std::function<void(int)>& task) {
    Job job{task, count};
    if (count <= 1)
        job.help();
    else if (const ParallelRegion parallel = openmp())
        parallel([](void* data) { static_cast<Job*>(data)->help(); }, &job, static_cast<unsigned>(count), 0);
    else
        pool().run(count, job);
}

const char* thread_source() { return openmp() ? "openmp" : "own"; }

}  // namespace kbnet
