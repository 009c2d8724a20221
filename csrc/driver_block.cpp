#include <algorithm>
#include <atomic>

#include "driver.h"
#include "work.h"

namespace kbnet {
namespace {

// Of a tile: enough that its border and the packing of weights cost little, while its panels stay in the cache.
constexpr int64_t kTilePixels = 512, kTileCols = 64, kTileAlign = 16;

// Images cut into tiles of about equal size.
struct Tiles {
    int64_t height, width, rows, cols, down, across, count;

    Tiles(const Sizes& s, int threads) : height(s.height), width(s.width) {
        cols = width;
        if (width > kTileCols + kTileCols / 2)
            cols = round_up(divide_up(width, divide_up(width, kTileCols)), kTileAlign);
        across = divide_up(width, cols);
        rows = std::clamp<int64_t>(kTilePixels / round_up(cols, kTileAlign), 1, height);
        // Few tiles: smaller ones, so that every thread finds work.
        while (s.batch * across * divide_up(height, rows) < threads && rows > 4) rows = divide_up(rows, 2);
        down = divide_up(height, rows);
        rows = divide_up(height, down);
        down = divide_up(height, rows);
        count = s.batch * down * across;
    }
    Tile largest() const { return {0, 0, rows, 0, cols}; }
    Tile tile(int64_t i) const {
        const int64_t row0 = i / across % down * rows, col0 = i % across * cols;
        return {i / (across * down), row0, std::min(rows, height - row0), col0, std::min(cols, width - col0)};
    }
};

// work(i, scratch) for all i below count, on up to `threads` threads with `floats` of scratch each.
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
