#include <algorithm>
#include <atomic>

#include "driver.h"
#include "work.h"

namespace kbnet {
namespace {

constexpr int64_t kSumGroups = 32;  // of tiles, each with sums of its own: enough for the threads, little to add up

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

constexpr int64_t kPackedAlone = int64_t{1} << 15;  // floats that one thread packs faster than several

// The packed parameters of a call.
template <class Call>
Floats pack(const Call& call, int64_t (*packed)(const Call&), void (*pack_part)(const Call&, float*, int64_t, int64_t),
            int threads) {
    const int64_t floats = packed(call);
    Floats to = allocate(floats);
    if (floats < kPackedAlone) threads = 1;
    share_out(threads, 0, threads, [&](int64_t i, float*) { pack_part(call, to.get(), i, threads); });
    return to;
}

}  // namespace

void block(const Kernels& kernels, FusionCall fusion, FeedForwardCall feed, int threads) {
    const Sizes& s = fusion.sizes;
    fusion.paired = fusion.paired && kernels.has_pairs, feed.paired = feed.paired && kernels.has_pairs;
    if (s.batch * s.height * s.width == 0) return;
    const Tiles tiles(s, threads);
    const bool both = feed.hidden > 0;
    const Floats packed = pack(fusion, kernels.fusion_packed, kernels.fusion_pack, threads);
    fusion.packed = packed.get();
    const Floats packed_feed = both ? pack(feed, kernels.feed_forward_packed, kernels.feed_forward_pack, threads) : Floats{};
    feed.packed = packed_feed.get();
    int64_t floats = kernels.fusion_scratch(fusion, tiles.largest());
    if (both) floats = std::max(floats, kernels.feed_forward_scratch(feed, tiles.largest()));
    share_out(tiles.count, floats, threads, [&](int64_t i, float* scratch) {
        kernels.fusion_tile(fusion, tiles.tile(i), scratch);
        if (both) kernels.feed_forward_tile(feed, tiles.tile(i), scratch);  // while the tile is in the cache
    });
}

void attention(const Kernels& kernels, AttentionCall call, int threads) {
    call.paired = call.paired && kernels.has_pairs;
    if (call.sizes.batch * call.sizes.height * call.sizes.width == 0) return;
    const Tiles tiles(call.sizes, threads);
    const Floats packed = pack(call, kernels.attention_packed, kernels.attention_pack, threads);
    call.packed = packed.get();
    share_out(tiles.count, kernels.attention_scratch(call, tiles.largest()), threads,
              [&](int64_t i, float* scratch) { kernels.attention_tile(call, tiles.tile(i), scratch); });
}

void attention_sums(const Kernels& kernels, AttentionCall call, int64_t halo, float* sums, int threads) {
    call.paired = call.paired && kernels.has_pairs;
    Sizes inside = call.sizes;
    inside.batch = 1, inside.height -= 2 * halo, inside.width -= 2 * halo;
    set_zero(sums, call.sizes.batch * call.sums());
    if (call.sizes.batch == 0 || inside.height <= 0 || inside.width <= 0) return;
    // The same tiles in the same groups whatever the number of threads, so that the sums are the same too.
    const Tiles tiles(inside, 1);
    const int64_t groups = std::min<int64_t>(tiles.count, kSumGroups), each = call.sums();
    call.out_batch = 0;  // not needed
    const Floats packed = pack(call, kernels.attention_packed, kernels.attention_pack, threads);
    call.packed = packed.get();
    const Floats parts = allocate(call.sizes.batch * groups * each);
    set_zero(parts.get(), call.sizes.batch * groups * each);
    share_out(call.sizes.batch * groups, kernels.attention_scratch(call, tiles.largest()), threads,
              [&](int64_t i, float* scratch) {
                  const int64_t image = i / groups, group = i % groups;
                  for (int64_t t = tiles.count * group / groups; t < tiles.count * (group + 1) / groups; ++t) {
                      Tile tile = tiles.tile(t);
                      tile.image = image, tile.row0 += halo, tile.col0 += halo;
                      kernels.attention_sums_tile(call, tile, scratch, parts.get() + i * each);
                  }
              });
    for (int64_t i = 0; i < call.sizes.batch * groups; ++i)
        for (int64_t j = 0; j < each; ++j) sums[i / groups * each + j] += parts[static_cast<std::size_t>(i * each + j)];
}

void cell_sums(const Kernels& kernels, const SumsCall& call, int threads) {
    const int64_t down = call.grid_rows();
    if (call.sizes.batch * down * call.sizes.width == 0) return;
    share_out(call.sizes.batch * down, kernels.sums_scratch(call), threads,
              [&](int64_t i, float* scratch) { kernels.sums_row(call, i / down, i % down, scratch); });
}

}  // namespace kbnet
