#include <algorithm>
#include <atomic>

#include "driver.h"
#include "work.h"

namespace kbnet {

// Pixels per strip: enough to amortize the work per strip, while all panels of one group fit in the L2 cache.
constexpr int64_t kForwardPixels = 384;
// If few strips or tiles read the weights, packing them where they are used is faster: with many channels they exceed
// the cache.
constexpr int64_t kFewStrips = 2;

namespace {

// Whether vectors of pixels fill rows of this width well. Otherwise much of the last vector would be unused; on
// narrower images, strips are faster.
bool fills_vectors(int64_t width) {
    return width >= 2 * kTileAlign && 4 * width >= 3 * round_up(width, kTileAlign);
}

// Calls work(i, group0, group1, scratch) for all i < count and all groups, on up to `threads` threads.
template <class Work>
void share_out(int64_t count, int64_t groups, int threads, int64_t scratch_floats, Work work) {
    // With few strips or tiles, split their groups too, so that every thread has work.
    const int64_t shares = threads == 1 ? 1 : std::clamp<int64_t>(divide_up(8 * threads, count), 1, groups);
    const int64_t tasks = count * shares;
    threads = static_cast<int>(std::min<int64_t>(threads, tasks));
    const Floats scratch = allocate(threads * scratch_floats);
    std::atomic<int64_t> next{0};
    run_on_threads(threads, [&](int thread) {
        for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) {
            const int64_t share = i % shares;
            work(i / shares, share * groups / shares, (share + 1) * groups / shares,
                 scratch.get() + thread * scratch_floats);
        }
    });
}

}  // namespace

void forward(const Kernels& kernels, ForwardCall call, int threads) {
    const Sizes& s = call.sizes;
    const int64_t rows = s.batch * s.height, groups = s.groups();
    if (rows * s.width * groups == 0) return;
    Floats packed;
    const auto pack = [&](int64_t readers, int64_t (*size)(const ForwardCall&),
                          void (*pack_group)(const ForwardCall&, int64_t, float*)) {
        if (readers > kFewStrips)
            packed = pack_groups(groups, size(call), threads, [&](int64_t g, float* to) { pack_group(call, g, to); });
        call.packed = packed.get();
    };
    if (fills_vectors(s.width)) {
        const Tiles tiles(s, 1);
        pack(tiles.count, kernels.forward_tile_packed, kernels.forward_tile_pack);
        share_out(tiles.count, groups, threads, kernels.forward_tile_scratch(call, tiles.largest()),
                  [&](int64_t i, int64_t group0, int64_t group1, float* scratch) {
                      kernels.forward_tile(call, tiles.tile(i), group0, group1, scratch);
                  });
        return;
    }
    const Cut cut(0, rows, s.width, kForwardPixels);
    pack(cut.count(), kernels.forward_packed, kernels.forward_pack);
    share_out(cut.count(), groups, threads, kernels.forward_scratch(call, cut.largest()),
              [&](int64_t i, int64_t group0, int64_t group1, float* scratch) {
                  kernels.forward_strip(call, cut.strip(i), group0, group1, scratch);
              });
}

}  // namespace kbnet
