// pool.h without threads, for WebAssembly: a module runs on one thread, and each worker has its own module.
#include "pool.h"

namespace kbnet {

void run_on_threads(int count, const std::function<void(int)>& task) {
    for (int i = 0; i < count; ++i) task(i);
}

const char* thread_source() { return "single"; }

}  // namespace kbnet
