#include <algorithm>
#include <vector>

#include "driver.h"
#include "work.h"

namespace kbnet {
namespace {

constexpr int64_t kBackwardPixels = 192;         // per strip; see kForwardPixels
constexpr int64_t kThreadFloats = 2 * (1 << 20);  // per thread, for the groups it works on: at most 8 MB

// One thread's share of a call and of its memory.
//
// dx accumulates in a window of float32 rows that slides down the band. Every strip adds to its own rows and to the k/2
// rows above and below; rows that no later strip can reach are written out, once. Both threads add to the 2 (k/2) rows
// around the border between two bands: these stay in `top` and `bottom` until all threads have finished.
struct Band {
    const BackwardCall& call;
    const Kernels& kernels;
    Cut cut;
    int64_t group0, group1;
    float *dweight, *window, *top, *bottom, *scratch;

    const Sizes& sizes() const { return call.sizes; }
    int64_t channels() const { return (group1 - group0) * sizes().group; }
    int64_t window_rows() const { return cut.rows + 2 * sizes().half(); }
    float* row(float* base, int64_t index) const { return base + index * channels() * sizes().width; }

    void write(int64_t row_index, const float* from) const {
        kernels.write_dx_row(call, group0 * sizes().group, channels(), row_index, from);
    }

    void run() {
        const Sizes& s = sizes();
        const int64_t half = s.half(), row_floats = channels() * s.width;
        const bool want_dx = call.dx.data;
        BackwardShare share{group0, group1, window, cut.begin - half, dweight};
        if (want_dx) set_zero(window, window_rows() * row_floats);
        for (int64_t i = 0; i < cut.count(); ++i) {
            const Strip strip = cut.strip(i);
            kernels.backward_strip(call, share, strip, scratch);
            if (!want_dx || strip.col0 + strip.cols < s.width) continue;
            // The block of rows is complete: its last 2 (k/2) rows stay, the earlier ones are final.
            for (int64_t r = 0; r < strip.rows; ++r) finish(share.window_row0 + r, row(window, r));
            std::memmove(window, row(window, strip.rows), static_cast<std::size_t>(2 * half * row_floats) * sizeof(float));
            set_zero(row(window, 2 * half), cut.rows * row_floats);
            share.window_row0 += strip.rows;
        }
        if (want_dx)
            for (int64_t r = 0; r < 2 * half; ++r) finish(share.window_row0 + r, row(window, r));
    }

    // Row `index` of the stacked images has received everything that this thread adds to it.
    void finish(int64_t index, const float* from) const {
        const Sizes& s = sizes();
        const int64_t half = s.half(), last = s.batch * s.height;
        const std::size_t bytes = static_cast<std::size_t>(channels() * s.width) * sizeof(float);
        const bool shared_top = cut.begin > 0 && index < cut.begin + half;
        const bool shared_bottom = cut.end < last && index >= cut.end - half;
        if (shared_top)
            std::memcpy(row(top, index - cut.begin + half), from, bytes);
        else if (shared_bottom)
            std::memcpy(row(bottom, index - cut.end + half), from, bytes);
        else if (index >= 0 && index < last)
            write(index, from);
    }
};

// Combines the rows around the border between two bands.
void join(const Band& above, const Band& below) {
    const Sizes& s = above.sizes();
    for (int64_t r = 0; r < 2 * s.half(); ++r) {
        float* sum = above.row(above.bottom, r);
        const float* other = below.row(below.top, r);
        for (int64_t i = 0; i < above.channels() * s.width; ++i) sum[i] += other[i];
        above.write(above.cut.end - s.half() + r, sum);
    }
}

}  // namespace

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

    // Each thread owns a band of rows and keeps its sums separate until the end, so that results never depend on
    // timing. Bands must be large enough that no row is shared by three.
    threads = static_cast<int>(std::clamp<int64_t>(rows / std::max<int64_t>(1, 2 * s.half()), 1, threads));
    std::vector<Cut> cuts;
    int64_t strip_rows = 0, scratch_floats = 0;
    for (int t = 0; t < threads; ++t) {
        cuts.emplace_back(rows * t / threads, rows * (t + 1) / threads, s.width, kBackwardPixels);
        strip_rows = std::max(strip_rows, cuts.back().rows);
        scratch_floats = std::max(scratch_floats, kernels.backward_scratch(call, cuts.back().largest()));
    }

    // A thread's memory grows with the number of groups at once, so large images or many channels need several passes.
    const int64_t pitch = kernels.dweight_pitch(s);
    const int64_t group_dweight = call.want_weight ? (s.taps() + 1) * pitch : 0;
    const int64_t group_row = call.dx.data ? s.group * s.width : 0;
    const int64_t edge_rows = threads > 1 ? 2 * s.half() : 0, window_rows = strip_rows + 2 * s.half();
    const int64_t group_floats = group_dweight + (window_rows + 2 * edge_rows) * group_row;
    const int64_t at_once = group_floats == 0 ? groups : std::clamp<int64_t>(kThreadFloats / group_floats, 1, groups);
    const int64_t dweight_floats = round_up(at_once * group_dweight, 16);
    const int64_t window_floats = round_up(at_once * window_rows * group_row, 16);
    const int64_t edge_floats = round_up(at_once * edge_rows * group_row, 16);
    const int64_t thread_floats = dweight_floats + window_floats + 2 * edge_floats + scratch_floats;
    const Floats memory = allocate(threads * thread_floats);

    for (int64_t group0 = 0; group0 < groups; group0 += at_once) {
        const int64_t group1 = std::min(groups, group0 + at_once);
        std::vector<Band> bands;
        for (int t = 0; t < threads; ++t) {
            float* const own = memory.get() + t * thread_floats;
            float* const window = own + dweight_floats;
            float* const edges = window + window_floats;
            bands.push_back({call, kernels, cuts[t], group0, group1, own, window, edges, edges + edge_floats,
                             edges + 2 * edge_floats});
        }
        run_on_threads(threads, [&](int t) {
            set_zero(bands[t].dweight, dweight_floats);
            bands[t].run();
        });
        if (call.dx.data)
            for (int t = 1; t < threads; ++t) join(bands[t - 1], bands[t]);
        if (call.want_weight)
            run_on_threads(threads, [&](int worker) {
                for (int64_t g = group0 + worker; g < group1; g += threads) {
                    std::vector<float*> sums;
                    for (const Band& band : bands) sums.push_back(band.dweight + (g - group0) * group_dweight);
                    write_dweight(s, g, sums, pitch, dweight, dbias);
                }
            });
    }
}

}  // namespace kbnet
