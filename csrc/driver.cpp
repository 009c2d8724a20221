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

constexpr int64_t kForwardPixels = 384;   // of a strip: large enough to hide the copying of weights, small enough
constexpr int64_t kBackwardPixels = 192;  // that all panels of one group stay in a 1 MB cache

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

Floats allocate_zeros(int64_t floats) {
    Floats p = allocate(floats);
    std::memset(p.get(), 0, static_cast<std::size_t>(floats) * sizeof(float));
    return p;
}

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How rows [begin, end) are cut: nearly equal strips of about `pixels` pixels each.
struct Cut {
    int64_t begin, end, width;
    int64_t rows, cols, across, down;

    Cut(int64_t begin, int64_t end, int64_t width, int64_t pixels) : begin(begin), end(end), width(width) {
        across = width <= 96 ? 1 : divide_up(width, 64);
        cols = divide_up(width, across);
        across = divide_up(width, cols);
        down = divide_up(end - begin, std::max<int64_t>(1, pixels / cols));
        rows = divide_up(end - begin, std::max<int64_t>(1, down));
        down = divide_up(end - begin, std::max<int64_t>(1, rows));
    }
    int64_t count() const { return across * down; }
    Strip largest() const { return {begin, rows, 0, cols}; }
    Strip strip(int64_t i) const {
        const int64_t row0 = begin + i / across * rows, col0 = i % across * cols;
        return {row0, std::min(rows, end - row0), col0, std::min(cols, width - col0)};
    }
};

}  // namespace

void forward(const Kernels& kernels, const ForwardCall& call, int threads) {
    const Sizes& s = call.sizes;
    const int64_t rows = s.batch * s.height, groups = s.groups();
    if (rows * s.width * groups == 0) return;
    const Cut cut(0, rows, s.width, kForwardPixels);
    // Few strips: share their groups out too, so that every thread finds work.
    const int64_t shares = threads == 1 ? 1 : std::clamp<int64_t>(divide_up(8 * threads, cut.count()), 1, groups);
    const int64_t tasks = cut.count() * shares;
    const int64_t scratch = kernels.forward_scratch(s, cut.largest());
    std::atomic<int64_t> next{0};
    run_on_threads(static_cast<int>(std::min<int64_t>(threads, tasks)), [&](int) {
        const Floats buffer = allocate(scratch);
        for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) {
            const int64_t share = i % shares;
            kernels.forward_strip(call, cut.strip(i / shares), share * groups / shares, (share + 1) * groups / shares,
                                  buffer.get());
        }
    });
}

namespace {

void zero_rows(const Tensor4& t, const Sizes& s, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
        for (int64_t c = 0; c < s.channels; ++c) {
            float* p = t.data + row / s.height * t.stride_b + c * t.stride_c + row % s.height * t.stride_y;
            if (t.stride_x == 1)
                std::memset(p, 0, static_cast<std::size_t>(s.width) * sizeof(float));
            else
                for (int64_t x = 0; x < s.width; ++x) p[x * t.stride_x] = 0;
        }
}

// Adds an edge buffer [C, k/2, W], whose first row is row0 of the stacked images.
void add_edge(const Tensor4& t, const Sizes& s, const float* edge, int64_t row0) {
    const int64_t half = s.kernel / 2;
    for (int64_t r = 0; r < half; ++r) {
        const int64_t row = row0 + r;
        if (row < 0 || row >= s.batch * s.height) continue;
        for (int64_t c = 0; c < s.channels; ++c) {
            float* p = t.data + row / s.height * t.stride_b + c * t.stride_c + row % s.height * t.stride_y;
            const float* from = edge + (c * half + r) * s.width;
            for (int64_t x = 0; x < s.width; ++x) p[x * t.stride_x] += from[x];
        }
    }
}

}  // namespace

void backward(const Kernels& kernels, const BackwardCall& call, float* dweight, float* dbias, int threads) {
    const Sizes& s = call.sizes;
    const int64_t rows = s.batch * s.height, groups = s.groups(), half = s.kernel / 2, taps = s.taps();
    if (rows * s.width * groups == 0) {
        if (call.want_weight) {
            std::memset(dweight, 0, static_cast<std::size_t>(s.bases * s.channels * taps) * sizeof(float));
            std::memset(dbias, 0, static_cast<std::size_t>(s.bases * s.channels) * sizeof(float));
        }
        return;
    }
    threads = static_cast<int>(std::min<int64_t>(threads, rows));
    const int64_t pitch = kernels.dweight_pitch(s), group_size = (taps + 1) * pitch;
    const int64_t edge = s.channels * half * s.width;
    std::vector<Floats> partial(threads), above(threads), below(threads);

    // Each thread owns a band of rows; sums over all pixels and rows next to the band are kept apart until the end,
    // so that the result does not depend on who ran first.
    run_on_threads(threads, [&](int t) {
        BackwardShare share{};
        share.band_begin = rows * t / threads;
        share.band_end = rows * (t + 1) / threads;
        const Cut cut(share.band_begin, share.band_end, s.width, kBackwardPixels);
        if (call.dx.data) {
            zero_rows(call.dx, s, share.band_begin, share.band_end);
            if (threads > 1) {
                above[t] = allocate_zeros(edge);
                below[t] = allocate_zeros(edge);
                share.edge_above = above[t].get();
                share.edge_below = below[t].get();
            }
        }
        if (call.want_weight) {
            partial[t] = allocate_zeros(groups * group_size);
            share.dweight = partial[t].get();
        }
        const Floats scratch = allocate(kernels.backward_scratch(s, cut.largest()));
        for (int64_t i = 0; i < cut.count(); ++i) kernels.backward_strip(call, share, cut.strip(i), scratch.get());
    });

    if (call.dx.data && threads > 1)
        for (int t = 0; t < threads; ++t) {
            add_edge(call.dx, s, above[t].get(), rows * t / threads - half);
            add_edge(call.dx, s, below[t].get(), rows * (t + 1) / threads);
        }
    if (!call.want_weight) return;
    run_on_threads(threads, [&](int worker) {
        for (int64_t g = groups * worker / threads; g < groups * (worker + 1) / threads; ++g) {
            float* sum = partial[0].get() + g * group_size;
            for (int t = 1; t < threads; ++t) {
                const float* other = partial[t].get() + g * group_size;
                for (int64_t i = 0; i < group_size; ++i) sum[i] += other[i];
            }
            for (int64_t n = 0; n < s.bases; ++n)
                for (int64_t c = 0; c < s.group; ++c) {
                    const float* from = sum + c * s.bases + n;
                    const int64_t row = n * s.channels + g * s.group + c;
                    for (int64_t i = 0; i < taps; ++i) dweight[row * taps + i] = from[i * pitch];
                    dbias[row] = from[taps * pitch];
                }
        }
    });
}

}  // namespace kbnet
