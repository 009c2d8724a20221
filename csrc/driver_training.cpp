#include <algorithm>
#include <vector>

#include "driver.h"
#include "work.h"

namespace kbnet {
namespace {

// Pixels per strip: fewer with many channels, so that its panels stay in the L2 cache.
int64_t strip_pixels(int64_t channels) { return std::clamp<int64_t>(16384 / channels, 128, 512); }

// Each thread has its own band of rows and its own sums, so results depend on the number of threads but not on timing.
struct Shares {
    std::vector<Cut> cuts;
    Floats memory;
    int64_t scratch, sums;

    int threads() const { return static_cast<int>(cuts.size()); }
    float* scratch_of(int t) const { return memory.get() + t * (scratch + sums); }
    float* sums_of(int t) const { return scratch_of(t) + scratch; }

    // Adds up the sums of all threads, in the memory of the first one.
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

// Computes the gradients of matrix, bias and scale from the sums D [rows, inner] and d [rows] of a scaled output.
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

void feed_forward_training(const Kernels& kernels, const FeedForwardTrainingCall& call, int threads) {
    const Sizes& s = call.sizes;
    if (s.batch * s.height * s.width == 0) return;
    threads = static_cast<int>(std::clamp<int64_t>(s.batch * s.height, 1, threads));
    const Shares shares = share_rows(s, strip_pixels(s.channels), 0, threads, [&](const Strip& largest) {
        return kernels.feed_forward_training_scratch(call, largest);
    });
    run_on_threads(threads, [&](int t) {
        kernels.feed_forward_training_prepare(call, shares.scratch_of(t));
        for (int64_t i = 0; i < shares.cuts[t].count(); ++i)
            kernels.feed_forward_strip(call, shares.cuts[t].strip(i), shares.scratch_of(t));
    });
}

void feed_forward_backward(const Kernels& kernels, const FeedForwardTrainingCall& call, float* const* gradients,
                           int threads) {
    const Sizes& s = call.sizes;
    const int64_t c = s.channels, d = call.hidden;
    if (s.batch * s.height * s.width == 0) {
        const int64_t sizes[] = {c, c, 2 * d * c, 2 * d, c * d, c, c};
        for (int i = 0; i < 7; ++i) set_zero(gradients[i], sizes[i]);
        return;
    }
    threads = static_cast<int>(std::clamp<int64_t>(s.batch * s.height, 1, threads));
    const Shares shares = share_rows(s, strip_pixels(c), call.sums(), threads, [&](const Strip& largest) {
        return kernels.feed_forward_training_scratch(call, largest);
    });
    run_on_threads(threads, [&](int t) {
        set_zero(shares.sums_of(t), shares.sums);
        kernels.feed_forward_training_prepare(call, shares.scratch_of(t));
        for (int64_t i = 0; i < shares.cuts[t].count(); ++i)
            kernels.feed_forward_backward_strip(call, shares.cuts[t].strip(i), shares.scratch_of(t), shares.sums_of(t));
    });
    const float* from = shares.total();
    const int64_t plain[] = {c, c, 2 * d * c, 2 * d};
    for (int i = 0; i < 4; ++i) from = copy_out(gradients[i], from, plain[i]);
    unscale(from, c, d, call.out, call.out_bias, call.out_scale, gradients[4], gradients[5], gradients[6]);
}

namespace {

// Whole images per strip: enough that small images fill the vectors and weights are read rarely.
constexpr int64_t kGroupPixels = 1024;

int64_t images_together(const Sizes& s, int threads) {
    return std::clamp<int64_t>(kGroupPixels / (s.height * s.width), 1, divide_up(s.batch, threads));
}

// Calls work(thread, strip) for all images; each thread works on its own ones, in strips of whole images.
template <class Work>
void share_images(const Sizes& s, int threads, Work work) {
    const int64_t together = images_together(s, threads);
    run_on_threads(threads, [&](int t) {
        const int64_t end = s.batch * (t + 1) / threads;
        for (int64_t i = s.batch * t / threads; i < end; i += together)
            work(t, Strip{i * s.height, std::min(together, end - i) * s.height, 0, s.width});
    });
}

ForwardCall operator_call(const FusionTrainingCall& call) {
    ForwardCall f{};
    f.sizes = call.sizes, f.weight = {call.parameters[kBases], false}, f.bias = {call.parameters[kBasesBias], false};
    return f;
}

}  // namespace

void fusion_training(const Kernels& kernels, FusionTrainingCall call, int threads) {
    const Sizes& s = call.sizes;
    if (s.batch * s.height * s.width == 0) return;
    const ForwardCall op = operator_call(call);
    const Floats packed = pack_groups(s.groups(), kernels.forward_packed(op), threads,
                                      [&](int64_t g, float* to) { kernels.forward_pack(op, g, to); });
    call.packed = packed.get();
    threads = static_cast<int>(std::clamp<int64_t>(s.batch, 1, threads));
    const int64_t floats = round_up(kernels.fusion_training_scratch(call, images_together(s, threads)), 16);
    const Floats scratch = allocate(threads * floats);
    run_on_threads(threads, [&](int t) { kernels.fusion_training_prepare(call, scratch.get() + t * floats); });
    share_images(s, threads, [&](int t, const Strip& strip) {
        kernels.fusion_forward_strip(call, strip, scratch.get() + t * floats);
    });
}

void fusion_training_backward(const Kernels& kernels, FusionTrainingCall call, float* const* gradients, int threads) {
    const Sizes& s = call.sizes;
    if (s.batch * s.height * s.width == 0) {
        for (int i = 0; i < kFusionParameters; ++i) set_zero(gradients[i], call.size(i));
        return;
    }
    BackwardCall op{};
    op.sizes = s, op.weight = {call.parameters[kBases], false}, op.bias = {call.parameters[kBasesBias], false};
    const Floats packed = pack_groups(s.groups(), kernels.backward_packed(op), threads,
                                      [&](int64_t g, float* to) { kernels.backward_pack(op, g, to); });
    call.packed = packed.get();
    threads = static_cast<int>(std::clamp<int64_t>(s.batch, 1, threads));
    const int64_t group_pitch = kernels.dweight_pitch(s), group_floats = (s.taps() + 1) * group_pitch;
    const int64_t scratch = round_up(kernels.fusion_training_scratch(call, images_together(s, threads)), 16);
    const int64_t sums = round_up(call.sums_at(kFusionParameters), 16);
    const int64_t floats = scratch + sums + round_up(s.groups() * group_floats, 16);
    const Floats memory = allocate(threads * floats);
    const auto sums_of = [&](int t) { return memory.get() + t * floats + scratch; };
    const auto bases_of = [&](int t) { return sums_of(t) + sums; };
    run_on_threads(threads, [&](int t) {
        set_zero(sums_of(t), floats - scratch);
        kernels.fusion_training_prepare(call, memory.get() + t * floats);
    });
    share_images(s, threads, [&](int t, const Strip& strip) {
        kernels.fusion_backward_strip(call, strip, memory.get() + t * floats, sums_of(t), bases_of(t));
    });

    run_on_threads(threads, [&](int worker) {
        for (int64_t g = worker; g < s.groups(); g += threads) {
            std::vector<float*> of_group;
            for (int t = 0; t < threads; ++t) of_group.push_back(bases_of(t) + g * group_floats);
            write_dweight(s, g, of_group, group_pitch, gradients[kBases], gradients[kBasesBias]);
        }
    });
    float* const total = sums_of(0);
    for (int t = 1; t < threads; ++t)
        for (int64_t i = 0; i < sums; ++i) total[i] += sums_of(t)[i];
    for (int i = 0; i < kFusionParameters; ++i)
        if (i != kBases && i != kBasesBias) copy_out(gradients[i], total + call.sums_at(i), call.size(i));
    const float* const* p = call.parameters;
    unscale(total + call.sums_at(kExpand), s.bases, call.head / 2, p[kExpand], p[kExpandBias], p[kCoefficientScale],
            gradients[kExpand], gradients[kExpandBias], gradients[kCoefficientScale]);
    unscale(total + call.sums_at(kOut), s.channels, s.channels, p[kOut], p[kOutBias], p[kOutScale], gradients[kOut],
            gradients[kOutBias], gradients[kOutScale]);
}

}  // namespace kbnet
