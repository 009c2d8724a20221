#include "driver.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "pool.h"

namespace kbnet {
namespace {

constexpr int64_t kForwardPixels = 384;         // of a strip: enough to hide what is done once a strip, while all
constexpr int64_t kBackwardPixels = 192;        // panels of one group still fit a second-level cache
constexpr int64_t kDweightFloats = 2 * 1 << 20;  // a thread's sums of weight gradients: at most 8 MB at a time

struct FreeAligned {
    void operator()(float* p) const { std::free(p); }
};
using Floats = std::unique_ptr<float[], FreeAligned>;

Floats allocate(int64_t floats) {
    const std::size_t bytes = (static_cast<std::size_t>(floats) * sizeof(float) + 63) / 64 * 64;
    void* p = std::aligned_alloc(64, std::max<std::size_t>(bytes, 64));
    if (!p) throw std::bad_alloc();
    return Floats(static_cast<float*>(p));
}

void set_zero(float* p, int64_t floats) { std::memset(p, 0, static_cast<std::size_t>(floats) * sizeof(float)); }

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

// How rows [begin, end) are cut into nearly equal strips of about `pixels` pixels each.
struct Cut {
    int64_t begin, end, width;
    int64_t rows, cols, across, down;

    Cut(int64_t begin_, int64_t end_, int64_t width_, int64_t pixels) : begin(begin_), end(end_), width(width_) {
        across = width <= 96 ? 1 : divide_up(width, 64);
        cols = divide_up(width, across);
        across = divide_up(width, cols);
        down = divide_up(end - begin, std::max<int64_t>(1, pixels / cols));
        rows = divide_up(end - begin, down);
        down = divide_up(end - begin, rows);
    }
    int64_t count() const { return across * down; }
    Strip largest() const { return {begin, rows, 0, cols}; }
    Strip strip(int64_t i) const {
        const int64_t row0 = begin + i / across * rows, col0 = i % across * cols;
        return {row0, std::min(rows, end - row0), col0, std::min(cols, width - col0)};
    }
};

// Calls pack(group, where) for all groups, shared out over the threads.
template <class Pack>
Floats pack_groups(int64_t groups, int64_t floats_each, int threads, Pack pack) {
    Floats packed = allocate(groups * floats_each);
    const int64_t total = groups * floats_each;
    const int shares = total < 1 << 15 ? 1 : static_cast<int>(std::min<int64_t>(threads, groups));
    run_on_threads(shares, [&](int i) {
        for (int64_t g = groups * i / shares; g < groups * (i + 1) / shares; ++g)
            pack(g, packed.get() + g * floats_each);
    });
    return packed;
}

}  // namespace

void forward(const Kernels& kernels, ForwardCall call, int threads) {
    const Sizes& s = call.sizes;
    const int64_t rows = s.batch * s.height, groups = s.groups();
    if (rows * s.width * groups == 0) return;
    const Floats packed =
        pack_groups(groups, kernels.forward_packed(call), threads,
                    [&](int64_t g, float* to) { kernels.forward_pack(call, g, to); });
    call.packed = packed.get();

    const Cut cut(0, rows, s.width, kForwardPixels);
    // Few strips: share their groups out too, so that every thread finds work.
    const int64_t shares = threads == 1 ? 1 : std::clamp<int64_t>(divide_up(8 * threads, cut.count()), 1, groups);
    const int64_t tasks = cut.count() * shares;
    threads = static_cast<int>(std::min<int64_t>(threads, tasks));
    const int64_t scratch_floats = kernels.forward_scratch(call, cut.largest());
    const Floats scratch = allocate(threads * scratch_floats);
    std::atomic<int64_t> next{0};
    run_on_threads(threads, [&](int thread) {
        for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) {
            const int64_t share = i % shares;
            kernels.forward_strip(call, cut.strip(i / shares), share * groups / shares, (share + 1) * groups / shares,
                                  scratch.get() + thread * scratch_floats);
        }
    });
}

namespace {

void zero_rows(const Tensor4& t, const Sizes& s, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
        float* p = static_cast<float*>(t.data) + t.at(row / s.height, 0, row % s.height, 0);
        if (t.stride_x == 1)
            for (int64_t c = 0; c < s.channels; ++c) set_zero(p + c * t.stride_c, s.width);
        else
            for (int64_t x = 0; x < s.width; ++x)
                for (int64_t c = 0; c < s.channels; ++c) p[x * t.stride_x + c * t.stride_c] = 0;
    }
}

// Adds an edge buffer [C, k/2, W], whose first row is row0 of the stacked images.
void add_edge(const Tensor4& t, const Sizes& s, const float* edge, int64_t row0) {
    for (int64_t r = 0; r < s.half(); ++r) {
        const int64_t row = row0 + r;
        if (row < 0 || row >= s.batch * s.height) continue;
        for (int64_t c = 0; c < s.channels; ++c) {
            float* p = static_cast<float*>(t.data) + t.at(row / s.height, c, row % s.height, 0);
            const float* from = edge + (c * s.half() + r) * s.width;
            for (int64_t x = 0; x < s.width; ++x) p[x * t.stride_x] += from[x];
        }
    }
}

// The threads' sums for one group, [taps + 1][G * N and padding] each, added up and written as [N, C, taps], [N, C].
void write_dweight(const Sizes& s, int64_t group, const std::vector<float*>& sums, int64_t pitch, float* dweight,
                   float* dbias) {
    const int64_t taps = s.taps();
    float* total = sums[0];
    for (std::size_t t = 1; t < sums.size(); ++t)
        for (int64_t i = 0; i < (taps + 1) * pitch; ++i) total[i] += sums[t][i];
    for (int64_t n = 0; n < s.bases; ++n)
        for (int64_t c = 0; c < s.group; ++c) {
            const float* from = total + c * s.bases + n;
            const int64_t row = n * s.channels + group * s.group + c;
            for (int64_t i = 0; i < taps; ++i) dweight[row * taps + i] = from[i * pitch];
            dbias[row] = from[taps * pitch];
        }
}

}  // namespace

void backward(const Kernels& kernels, BackwardCall call, float* dweight, float* dbias, int threads) {
    const Sizes& s = call.sizes;
    const int64_t rows = s.batch * s.height, groups = s.groups();
    if (rows * s.width * groups == 0) {
        if (call.want_weight) {
            set_zero(dweight, s.bases * s.channels * s.taps());
            set_zero(dbias, s.bases * s.channels);
        }
        return;
    }
    const Floats packed =
        pack_groups(groups, kernels.backward_packed(call), threads,
                    [&](int64_t g, float* to) { kernels.backward_pack(call, g, to); });
    call.packed = packed.get();

    // Each thread owns a band of rows. What belongs to rows of other bands, and sums over all pixels, it keeps to
    // itself until the end, so that the result never depends on who ran first.
    threads = static_cast<int>(std::min<int64_t>(threads, rows));
    const auto band = [&](int t) { return rows * t / threads; };
    const int64_t pitch = kernels.dweight_pitch(s), group_floats = (s.taps() + 1) * pitch;
    const int64_t groups_at_once =
        call.want_weight ? std::clamp<int64_t>(kDweightFloats / group_floats, 1, groups) : groups;
    const int64_t dweight_floats = call.want_weight ? round_up(groups_at_once * group_floats, 16) : 0;
    const bool edges = call.dx.data && threads > 1;
    const int64_t edge_floats = edges ? round_up(s.channels * s.half() * s.width, 16) : 0;
    int64_t scratch_floats = 0;
    for (int t = 0; t < threads; ++t)
        scratch_floats = std::max(
            scratch_floats, kernels.backward_scratch(call, Cut(band(t), band(t + 1), s.width, kBackwardPixels).largest()));
    const int64_t each = dweight_floats + 2 * edge_floats + scratch_floats;
    const Floats memory = allocate(threads * each);

    for (int64_t group0 = 0; group0 < groups; group0 += groups_at_once) {
        const int64_t group1 = std::min(groups, group0 + groups_at_once);
        run_on_threads(threads, [&](int t) {
            float* const own = memory.get() + t * each;
            const BackwardShare share{group0,         group1,
                                      band(t),        band(t + 1),
                                      own + dweight_floats, own + dweight_floats + edge_floats,
                                      own};
            set_zero(own, dweight_floats);
            if (group0 == 0) {
                set_zero(share.edge_above, 2 * edge_floats);
                if (call.dx.data) zero_rows(call.dx, s, band(t), band(t + 1));
            }
            const Cut cut(band(t), band(t + 1), s.width, kBackwardPixels);
            for (int64_t i = 0; i < cut.count(); ++i)
                kernels.backward_strip(call, share, cut.strip(i), share.edge_below + edge_floats);
        });
        if (call.want_weight)
            run_on_threads(threads, [&](int worker) {
                for (int64_t g = group0 + worker; g < group1; g += threads) {
                    std::vector<float*> sums;
                    for (int t = 0; t < threads; ++t)
                        sums.push_back(memory.get() + t * each + (g - group0) * group_floats);
                    write_dweight(s, g, sums, pitch, dweight, dbias);
                }
            });
    }
    if (edges)
        for (int t = 0; t < threads; ++t) {
            const float* above = memory.get() + t * each + dweight_floats;
            add_edge(call.dx, s, above, band(t) - s.half());
            add_edge(call.dx, s, above + edge_floats, band(t + 1));
        }
}

}  // namespace kbnet
