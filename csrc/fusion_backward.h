// The gradient of the fusion half over a strip of whole images; see fusion_training.h.
//
// Recomputes everything from x, except for the operator's value. For outputs that parameters scale, the sums over
// pixels leave out the scale: its gradient and that of the matrix both follow from them.
#pragma once

#include "fusion_training.h"

namespace {

// Backward through m = (kba * kba_scale + v) * st * ch, given its gradient in k.dm. Computes m, and overwrites each
// factor with its gradient: kba's is in k.k, st's in k.st and v's in k.dm.
inline void multiply_backward(const FusionTrainingCall& call, const FusionTrainingScratch& k, float* dkba_scale) {
    for (int64_t c = 0; c < call.sizes.channels; ++c) {
        spread_channel(k, c);
        const float scale = call.parameters[kKbaScale][c];
        float *kba = k.k + c * k.pitch, *st = k.st + c * k.pitch, *dm = k.dm + c * k.pitch, *m = k.m + c * k.pitch;
        const float* v = k.v + c * k.pitch;
        float dscale = 0.0f;
        for (int64_t begin = 0; begin < k.pitch; begin += kSumVectors * kLanes) {
            Vec sum{};
            for (int64_t i = begin; i < smaller(k.pitch, begin + kSumVectors * kLanes); i += kLanes) {
                const Vec filtered = load(kba + i), ch = load(k.row + i), s = load(st + i), d = load(dm + i);
                const Vec adaptive = filtered * scale + load(v + i), both = adaptive * s;
                const Vec dadaptive = d * s * ch;
                sum += dadaptive * filtered;
                store(m + i, both * ch);
                store(k.product_row + i, d * both);
                store(st + i, d * adaptive * ch);
                store(kba + i, dadaptive * scale);
                store(dm + i, dadaptive);
            }
            dscale += sum_of(sum);
        }
        dkba_scale[c] += dscale;
        for (int64_t i = 0; i < k.images; ++i)
            k.dchannel[c * k.images + i] = row_sum(k.product_row + i * k.area, k.area);
    }
}

// Gradients of the operator's inputs: a's in k.da, v's added to k.dm
inline void kba_backward(const FusionTrainingCall& call, const FusionTrainingScratch& k, const Strip& strip,
                         float* bases_sums) {
    const Sizes& s = call.sizes;
    const ForwardCall forward = k.kba(call);
    BackwardCall back{};
    back.sizes = forward.sizes, back.x = forward.x, back.coefficients = forward.coefficients, back.dy = forward.y;
    back.weight = forward.weight, back.bias = forward.bias, back.packed = call.packed;
    back.dx = forward.x;  // only marks that dx is needed; the sums stay in the window
    back.dcoefficients = k.view(k.da, s.width), back.want_weight = true;
    const BackwardShare share{0, s.groups(), k.window, 0, bases_sums};
    fill(k.window, k.images * k.area * s.channels, 0.0f);
    const int64_t step = kba_strip_rows(kKbaBackwardPixels, s.width);
    for (int64_t r = 0; r < strip.rows; r += step)
        backward_strip(back, share, Strip{r, smaller(step, strip.rows - r), 0, s.width}, k.strip);
    clear_tail(k.da, k.pitch, s.bases, strip.pixels());
    for (int64_t r = 0; r < strip.rows; ++r)
        for (int64_t c = 0; c < s.channels; ++c)
            add_row(k.dm + c * k.pitch + r * s.width, k.window + (r * s.channels + c) * s.width, s.width);
}

// Backward through a branch's depthwise convolution and its product, into k.du. Overwrites `dy`.
inline void branch_backward(const FusionTrainingScratch& k, float* dy, const float* inner, int64_t channels,
                            const float* conv, const float* transposed, float* dconv, float* dconv_bias, float* din,
                            float* din_bias) {
    for (int64_t c = 0; c < channels; ++c) {
        k.padded.pad(k.plane, inner + c * k.pitch);
        k.padded.pad(k.dplane, dy + c * k.pitch);
        add_convolution_sums(dconv + 9 * c, dconv_bias + c, k.padded, k.plane, dy + c * k.pitch);
        convolve_channel<false>(dy + c * k.pitch, k.padded, k.dplane, conv + 9 * c, 0.0f, true);
    }
    add_outer(din, dy, channels, k.u, channels, k.pitch);
    add_row_sums(din_bias, dy, k.pitch, channels);
    multiply_add(k.du, transposed, k.zeros, dy, k.pitch, channels, channels);
}

// Backward from k.da through the coefficient head; overwrites k.du
inline void head_backward(const FusionTrainingCall& call, const FusionTrainingScratch& k, float* sums) {
    const int64_t c = call.sizes.channels, n = call.sizes.bases, half = call.head / 2, each = c / call.head;
    const auto to = [&](int parameter) { return sums + call.sums_at(parameter); };
    multiply(k.dgated, k.expand_t, k.zeros, k.da, k.pitch, half, n);
    multiply(k.du, k.projection_t, k.zeros, k.da, k.pitch, c, n);
    add_outer(to(kExpand), k.da, n, k.gated, half, k.pitch);
    add_row_sums(to(kExpandBias), k.da, k.pitch, n);
    add_outer(to(kProjection), k.da, n, k.u, c, k.pitch);
    add_row_sums(to(kProjectionBias), k.da, k.pitch, n);
    for (int64_t i = 0; i < half * k.pitch; i += kLanes) {
        float *first = k.head + i, *second = first + half * k.pitch;
        const Vec a = load(first), b = load(second), d = load(k.dgated + i);
        store(first, d * b);
        store(second, d * a);
    }
    for (int64_t r = 0; r < call.head; ++r) {
        k.padded.pad(k.dplane, k.head + r * k.pitch);
        for (int64_t j = r * each; j < (r + 1) * each; ++j) {
            k.padded.pad(k.plane, k.u + j * k.pitch);
            add_convolution_sums(to(kHeadConv) + 9 * j, j == r * each ? to(kHeadConvBias) + r : nullptr, k.padded,
                                 k.plane, k.head + r * k.pitch);
            convolve_channel<true>(k.du + j * k.pitch, k.padded, k.dplane, call.parameters[kHeadConv] + 9 * j, 0.0f,
                                   true);
        }
    }
}

// Backward from k.dchannel through the channel branch, into k.du
inline void mean_backward(const FusionTrainingCall& call, const FusionTrainingScratch& k, float* dmix,
                          float* dmix_bias) {
    const int64_t c = call.sizes.channels, images = k.images;
    const float share = 1.0f / static_cast<float>(k.area);
    fill(k.dmeans, c * images, 0.0f);
    for (int64_t r = 0; r < c; ++r) {
        const float* d = k.dchannel + r * images;
        for (int64_t i = 0; i < images; ++i) dmix_bias[r] += d[i];
        for (int64_t j = 0; j < c; ++j) {
            float sum = 0.0f;
            const float w = call.parameters[kMix][r * c + j] * share;
            for (int64_t i = 0; i < images; ++i) {
                sum += d[i] * k.means[j * images + i];
                k.dmeans[j * images + i] += d[i] * w;
            }
            dmix[r * c + j] += sum;
        }
    }
    for (int64_t j = 0; j < c; ++j)
        for (int64_t i = 0; i < images; ++i) {
            float* const to = k.du + j * k.pitch + i * k.area;
            for (int64_t p = 0; p < k.area; ++p) to[p] += k.dmeans[j * images + i];
        }
}

void fusion_backward_strip(const FusionTrainingCall& call, const Strip& strip, float* scratch, float* sums,
                           float* bases_sums) {
    const Sizes& s = call.sizes;
    const int64_t c = s.channels, pixels = strip.pixels();
    const FusionTrainingScratch k(call, strip.rows / s.height, scratch);
    const auto to = [&](int parameter) { return sums + call.sums_at(parameter); };
    const float* const* p = call.parameters;
    compute_branches(call, k, strip, false);
    gather_panel(k.k, k.pitch, call.filtered, 0, c, s, strip);
    gather_panel(k.dy, k.pitch, call.dy, 0, c, s, strip);
    clear_tail(k.k, k.pitch, c, pixels);
    clear_tail(k.dy, k.pitch, c, pixels);

    multiply(k.dm, k.out_t, k.zeros, k.dy, k.pitch, c, c);
    multiply_backward(call, k, to(kKbaScale));
    add_outer(to(kOut), k.dy, c, k.m, c, k.pitch);
    add_row_sums(to(kOutBias), k.dy, k.pitch, c);
    kba_backward(call, k, strip, bases_sums);
    head_backward(call, k, sums);
    branch_backward(k, k.st, k.s1, c, p[kStaticConv], k.static_in_t, to(kStaticConv), to(kStaticConvBias),
                    to(kStaticIn), to(kStaticInBias));
    branch_backward(k, k.dm, k.v1, c, p[kAdaptiveConv], k.adaptive_in_t, to(kAdaptiveConv), to(kAdaptiveConvBias),
                    to(kAdaptiveIn), to(kAdaptiveInBias));
    mean_backward(call, k, to(kMix), to(kMixBias));
    norm_backward(k.dy, k.du, k.x, k.scale, k.pitch, c, p[kNormWeight], to(kNormWeight), to(kNormBias));
    scatter_panel(call.dx, 0, c, k.dy, k.pitch, s, strip);
}

}  // namespace
