#include <algorithm>
#include <vector>

#include "driver.h"
#include "work.h"

namespace kbnet {
namespace {

// Of a strip: fewer pixels where they have many channels, so that its panels stay in a second-level cache.
int64_t strip_pixels(int64_t channels) { return std::clamp<int64_t>(16384 / channels, 128, 512); }

// Each thread owns a band of rows and its own sums, so that results depend on the number of threads but never on timing.
struct Shares {
    std::vector<Cut> cuts;
    Floats memory;
    int64_t scratch, sums;

    int threads() const { return static_cast<int>(cuts.size()); }
    float* scratch_of(int t) const { return memory.get() + t * (scratch + sums); }
    float* sums_of(int t) const { return scratch_of(t) + scratch; }

    // The sums of all threads, in the memory of the first.
    const float* total() const {
        float* const to = sums_of(0);
        for (int t = 1; t < threads(); ++t)
            for (int64_t i = 0; i < sums; ++i) to[i] += sums_of(t)[i];
        return to;
    }
};

template <class ScratchOf>
Shares share_rows(const Sizes& s, int64_t pixels, int64_t sums, int threads, ScratchOf scratch_of) {
    const int64_t rows = s.batch * s.height;
    Shares shares{{}, {}, 0, round_up(sums, 16)};
    for (int t = 0; t < threads; ++t) {
        shares.cuts.emplace_back(rows * t / threads, rows * (t + 1) / threads, s.width, pixels);
        shares.scratch = std::max(shares.scratch, round_up(scratch_of(shares.cuts.back().largest()), 16));
    }
    shares.memory = allocate(threads * (shares.scratch + shares.sums));
    return shares;
}

const float* copy_out(float* to, const float* from, int64_t n) {
    std::copy(from, from + n, to);
    return from + n;
}

// From the sums of an output that was scaled, D [rows, inner] and d [rows], the gradients of matrix, bias and scale.
const float* unscale(const float* sums, int64_t rows, int64_t inner, const float* matrix, const float* bias,
                     const float* scale, float* dmatrix, float* dbias, float* dscale) {
    const float* const sums_bias = sums + rows * inner;
    for (int64_t r = 0; r < rows; ++r) {
        float along = sums_bias[r] * bias[r];
        for (int64_t i = r * inner; i < (r + 1) * inner; ++i) {
            along += sums[i] * matrix[i];
            dmatrix[i] = sums[i] * scale[r];
        }
        dbias[r] = sums_bias[r] * scale[r];
        dscale[r] = along;
    }
    return sums_bias + rows;
}

}  // namespace

void feed_forward_backward(const Kernels& kernels, const FeedForwardBackwardCall& call, float* const* gradients,
                           int threads) {
    const Sizes& s = call.sizes;
    const int64_t c = s.channels, d = call.hidden;
    threads = static_cast<int>(std::clamp<int64_t>(s.batch * s.height, 1, threads));
    const Shares shares = share_rows(s, strip_pixels(c), call.sums(), threads, [&](const Strip& largest) {
        return kernels.feed_forward_backward_scratch(call, largest);
    });
    run_on_threads(threads, [&](int t) {
        set_zero(shares.sums_of(t), shares.sums);
        if (s.width == 0 || shares.cuts[t].begin == shares.cuts[t].end) return;
        kernels.feed_forward_backward_prepare(call, shares.scratch_of(t));
        for (int64_t i = 0; i < shares.cuts[t].count(); ++i)
            kernels.feed_forward_backward_strip(call, shares.cuts[t].strip(i), shares.scratch_of(t), shares.sums_of(t));
    });
    const float* from = shares.total();
    const int64_t plain[] = {c, c, 2 * d * c, 2 * d};
    for (int i = 0; i < 4; ++i) from = copy_out(gradients[i], from, plain[i]);
    unscale(from, c, d, call.out, call.out_bias, call.out_scale, gradients[4], gradients[5], gradients[6]);
}

}  // namespace kbnet
