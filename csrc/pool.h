// Threads for parallel jobs that don't compete with torch's for the cores.
//
// torch's OpenMP workers spin for milliseconds after every operator, so a second set of threads would share the cores
// with them. If the process already has a GNU-compatible OpenMP runtime (torch brings one), jobs run on its workers.
// This needs no linking or loading: the single entry point is looked up by name. Without such a runtime, and in a
// forked child (where its workers no longer exist), jobs run on a small pool whose threads sleep between jobs.
#pragma once

#include <functional>

namespace kbnet {

// Runs task(0) ... task(count - 1), each once, on up to `count` threads including the caller's, and returns when all
// have finished. Tasks must not throw.
void run_on_threads(int count, const std::function<void(int)>& task);

// The threads that the next call would use: "openmp" or "own".
const char* thread_source();

}  // namespace kbnet
