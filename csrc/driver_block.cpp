#include <algorithm>
#include <atomic>

#include "driver.h"
#include "work.h"

namespace kbnet {
namespace {

// Calls work(i, scratch) for all i < count, on up to `threads` threads with `floats` floats of scratch each.
template <class Work>
void share_out(int64_t count, int64_t floats, int threads, Work work) {
    threads = static_cast<int>(std::min<int64_t>(threads, count));
    const Floats scratch = allocate(threads * floats);
    std::atomic<int64_t> next{0};
    run_on_threads(threads, [&](int thread) {
        for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;)
            work(i, scratch.get() + thread * floats);
    });
}

}  // namespace

void fusion(const Kernels& kernels, FusionCall call, int threads) {
    call.paired = call.paired && kernels.has_pairs;
    if (call.sizes.batch * call.sizes.height * call.sizes.width == 0) return;
    const Tiles tiles(call.sizes, threads);
    share_out(tiles.count, kernels.fusion_scratch(call, tiles.largest()), threads,
              [&](int64_t i, float* scratch) { kernels.fusion_tile(call, tiles.tile(i), scratch); });
}

void feed_forward(const Kernels& kernels, FeedForwardCall call, int threads) {
    call.paired = call.paired && kernels.has_pairs;
    if (call.sizes.batch * call.sizes.height * call.sizes.width == 0) return;
    const Tiles tiles(call.sizes, threads);
    share_out(tiles.count, kernels.feed_forward_scratch(call, tiles.largest()), threads,
              [&](int64_t i, float* scratch) { kernels.feed_forward_tile(call, tiles.tile(i), scratch); });
}

void cell_sums(const Kernels& kernels, const SumsCall& call, int threads) {
    const int64_t down = call.grid_rows();
    if (call.sizes.batch * down * call.sizes.width == 0) return;
    share_out(call.sizes.batch * down, kernels.sums_scratch(call), threads,
              [&](int64_t i, float* scratch) { kernels.sums_row(call, i / down, i % down, scratch); });
}

}  // namespace kbnet
