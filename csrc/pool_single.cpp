// pool.h where there are no threads: a WebAssembly module runs in one, and several modules run side by side.
#include "pool.h"

namespace kbnet {

void run_on_threads(int count, const std::function<void(int)>& task) {
    for (int i = 0; i < count; ++i) task(i);
}

const char* thread_source() { return "single"; }

}  // namespace kbnet
