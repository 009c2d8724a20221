// Threads to run a job on, without fighting torch for the cores.
//
// torch's OpenMP workers spin for milliseconds after each of its operators, so a second set of threads would share the
// cores with them. Where the process already has a GNU-compatible OpenMP runtime (torch brings one), jobs run on that
// runtime's workers. Nothing is linked against it and nothing is loaded: its one entry point is looked up by name.
// Where there is none, and in a forked child (where the runtime's workers no longer exist), a small pool of our own
// does the work; its threads sleep between jobs.
#pragma once

#include <functional>

namespace kbnet {

// Runs task(0) ... task(count - 1), each once, on up to `count` threads of which the caller is one, and returns when
// all have ended. Tasks must not throw.
void run_on_threads(int count, const std::function<void(int)>& task);

// "openmp" or "own": which threads the next call would use.
const char* thread_source();

}  // namespace kbnet
