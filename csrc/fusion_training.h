// The fusion half of KBNet-S's block in training, over a strip of whole images: the forward pass, and what both share.
//
//     u = norm(x);  st = depthwise(Ws u);  v = depthwise(Wa u);  a = scale * expand(gate(grouped(u))) + projection(u)
//     ch = Wc mean(u);  m = (kba(v, a) * kba_scale + v) * st * ch;  y = x + out_scale * out(m)
//
// Panels are dense and planar. With whole images, no borders are recomputed, and the mean is available.
#pragma once

#include "backward.h"
#include "convolution.h"
#include "forward.h"

namespace {

using namespace kbnet;  // the names of the parameters

inline int64_t kba_strip_rows(int64_t pixels, int64_t width) { return larger(1, pixels / width); }

constexpr int64_t kKbaForwardPixels = 384, kKbaBackwardPixels = 192;  // see driver_forward.cpp

struct FusionTrainingScratch {
    int64_t images, area, pitch, bases4, head4, channels4;
    Padded padded;
    // Packed once per thread
    float *static_in, *adaptive_in, *projection, *expand, *out;
    float *static_in_t, *adaptive_in_t, *projection_t, *expand_t, *out_t;
    float *static_bias, *adaptive_bias, *coefficient_bias, *out_bias, *zeros;
    // Per strip
    float *plane, *dplane, *means, *channel, *dchannel, *dmeans, *row, *product_row;
    float *scale, *x, *u, *s1, *st, *v1, *v, *head, *gated, *a, *k, *m, *dy, *dm, *du, *dgated, *da, *window, *strip;
    int64_t floats;

    FusionTrainingScratch(const FusionTrainingCall& call, int64_t images_, float* base)
        : images(images_),
          area(call.sizes.height * call.sizes.width),
          pitch(planar_pitch(images_ * area)),
          padded(images_, call.sizes.height, call.sizes.width) {
        const Sizes& s = call.sizes;
        const int64_t c = s.channels, n = s.bases, half = call.head / 2;
        bases4 = round_up(n, kRows), head4 = round_up(half, kRows), channels4 = round_up(c, kRows);
        Arena arena{base};
        static_in = arena.take(packed_floats(c, c)), static_in_t = arena.take(packed_floats(c, c));
        adaptive_in = arena.take(packed_floats(c, c)), adaptive_in_t = arena.take(packed_floats(c, c));
        out = arena.take(packed_floats(c, c)), out_t = arena.take(packed_floats(c, c));
        projection = arena.take(packed_floats(n, c)), projection_t = arena.take(packed_floats(c, n));
        expand = arena.take(packed_floats(n, half)), expand_t = arena.take(packed_floats(half, n));
        static_bias = arena.take(channels4), adaptive_bias = arena.take(channels4), out_bias = arena.take(channels4);
        coefficient_bias = arena.take(bases4);
        zeros = arena.take(larger(channels4, larger(bases4, head4)));

        plane = arena.take(padded.floats()), dplane = arena.take(padded.floats());
        means = arena.take(c * images), channel = arena.take(c * images);
        dchannel = arena.take(c * images), dmeans = arena.take(c * images);
        row = arena.take(pitch), product_row = arena.take(pitch), scale = arena.take(pitch);
        // Convolutions read and write back up to one vector beyond a panel.
        const auto panel = [&](int64_t rows) { return arena.take(rows * pitch + kLanes); };
        x = panel(c), u = panel(c), st = panel(c), v = panel(c);
        s1 = panel(channels4), v1 = panel(channels4);
        head = panel(call.head), gated = arena.take(half * pitch);
        a = arena.take(bases4 * pitch), k = arena.take(c * pitch), m = arena.take(c * pitch);
        dy = arena.take(channels4 * pitch), dm = panel(channels4), du = panel(channels4);
        dgated = arena.take(head4 * pitch), da = arena.take(n * pitch);
        window = arena.take(images * area * c);
        const ForwardCall forward = kba(call);
        const Strip ahead{0, smaller(images * s.height, kba_strip_rows(kKbaForwardPixels, s.width)), 0, s.width};
        const Strip back{0, smaller(images * s.height, kba_strip_rows(kKbaBackwardPixels, s.width)), 0, s.width};
        strip = arena.take(larger(forward_scratch(forward, ahead), BackwardScratch(forward.sizes, back, nullptr).floats));
        floats = arena.used;
    }

    Tensor4 view(float* panel, int64_t width) const { return {panel, area, pitch, width, 1, false}; }

    ForwardCall kba(const FusionTrainingCall& call) const {
        ForwardCall f{};
        f.sizes = call.sizes;
        f.sizes.batch = images;
        f.x = view(v, call.sizes.width), f.coefficients = view(a, call.sizes.width), f.y = view(k, call.sizes.width);
        f.weight = {call.parameters[kBases], false}, f.bias = {call.parameters[kBasesBias], false}, f.packed = call.packed;
        return f;
    }
};

inline int64_t fusion_training_scratch(const FusionTrainingCall& call, int64_t images) {
    return FusionTrainingScratch(call, images, nullptr).floats;
}

void fusion_training_prepare(const FusionTrainingCall& call, float* scratch) {
    const FusionTrainingScratch k(call, 1, scratch);
    const int64_t c = call.sizes.channels, n = call.sizes.bases, half = call.head / 2;
    const float* const* p = call.parameters;
    pack_matrix(k.static_in, p[kStaticIn], c, c, nullptr), pack_transpose(k.static_in_t, p[kStaticIn], c, c, nullptr);
    pack_matrix(k.adaptive_in, p[kAdaptiveIn], c, c, nullptr);
    pack_transpose(k.adaptive_in_t, p[kAdaptiveIn], c, c, nullptr);
    pack_matrix(k.projection, p[kProjection], n, c, nullptr);
    pack_transpose(k.projection_t, p[kProjection], c, n, nullptr);
    pack_matrix(k.expand, p[kExpand], n, half, p[kCoefficientScale]);
    pack_transpose(k.expand_t, p[kExpand], half, n, p[kCoefficientScale]);
    pack_matrix(k.out, p[kOut], c, c, p[kOutScale]), pack_transpose(k.out_t, p[kOut], c, c, p[kOutScale]);
    for (int64_t i = 0; i < k.channels4; ++i) {
        k.static_bias[i] = i < c ? p[kStaticInBias][i] : 0.0f;
        k.adaptive_bias[i] = i < c ? p[kAdaptiveInBias][i] : 0.0f;
        k.out_bias[i] = i < c ? p[kOutBias][i] * p[kOutScale][i] : 0.0f;
    }
    for (int64_t i = 0; i < k.bases4; ++i)
        k.coefficient_bias[i] = i < n ? p[kExpandBias][i] * p[kCoefficientScale][i] + p[kProjectionBias][i] : 0.0f;
    fill(k.zeros, larger(k.channels4, larger(k.bases4, k.head4)), 0.0f);
}

// A depthwise convolution, channel by channel
inline void depthwise_channels(const FusionTrainingScratch& k, float* to, const float* from, int64_t channels,
                               const float* weight, const float* bias) {
    for (int64_t c = 0; c < channels; ++c) {
        k.padded.pad(k.plane, from + c * k.pitch);
        convolve_channel<false>(to + c * k.pitch, k.padded, k.plane, weight + 9 * c, bias[c], false);
    }
}

// Computes the operator's inputs and the other factors from x; copies x to k.dy on request
inline void compute_branches(const FusionTrainingCall& call, const FusionTrainingScratch& k, const Strip& strip,
                             bool keep_x) {
    const Sizes& s = call.sizes;
    const int64_t c = s.channels, pixels = strip.pixels(), half = call.head / 2, each = c / call.head;
    const float* const* p = call.parameters;
    fill(k.plane, k.padded.floats(), 0.0f);
    fill(k.dplane, k.padded.floats(), 0.0f);
    gather_panel(k.x, k.pitch, call.x, 0, c, s, strip);
    clear_tail(k.x, k.pitch, c, pixels);
    if (keep_x) std::memcpy(k.dy, k.x, static_cast<std::size_t>(c * k.pitch) * sizeof(float));
    norm(k.x, k.scale, k.u, k.pitch, c, p[kNormWeight], p[kNormBias], call.eps);

    const float share = 1.0f / static_cast<float>(k.area);
    for (int64_t j = 0; j < c; ++j)
        for (int64_t i = 0; i < k.images; ++i)
            k.means[j * k.images + i] =
                row_sum(k.x + j * k.pitch + i * k.area, k.area) * share * p[kNormWeight][j] + p[kNormBias][j];
    for (int64_t r = 0; r < c; ++r) {
        float* const to = k.channel + r * k.images;
        fill(to, k.images, p[kMixBias][r]);
        for (int64_t j = 0; j < c; ++j)
            for (int64_t i = 0; i < k.images; ++i) to[i] += p[kMix][r * c + j] * k.means[j * k.images + i];
    }
    multiply(k.s1, k.static_in, k.static_bias, k.u, k.pitch, c, c);
    depthwise_channels(k, k.st, k.s1, c, p[kStaticConv], p[kStaticConvBias]);
    multiply(k.v1, k.adaptive_in, k.adaptive_bias, k.u, k.pitch, c, c);
    depthwise_channels(k, k.v, k.v1, c, p[kAdaptiveConv], p[kAdaptiveConvBias]);
    for (int64_t r = 0; r < call.head; ++r) {
        float* const to = k.head + r * k.pitch;
        for (int64_t j = r * each; j < (r + 1) * each; ++j) {
            k.padded.pad(k.plane, k.u + j * k.pitch);
            if (j == r * each)
                convolve_channel<false>(to, k.padded, k.plane, p[kHeadConv] + 9 * j, p[kHeadConvBias][r], false);
            else
                convolve_channel<true>(to, k.padded, k.plane, p[kHeadConv] + 9 * j, 0.0f, false);
        }
    }
    clear_tail(k.st, k.pitch, c, pixels);
    clear_tail(k.v, k.pitch, c, pixels);
    clear_tail(k.head, k.pitch, call.head, pixels);
    for (int64_t i = 0; i < half * k.pitch; i += kLanes)
        store(k.gated + i, load(k.head + i) * load(k.head + half * k.pitch + i));
    multiply(k.a, k.expand, k.coefficient_bias, k.gated, k.pitch, s.bases, half);
    multiply_add(k.a, k.projection, k.zeros, k.u, k.pitch, s.bases, c);
}

// row[p] = the channel branch of channel c at pixel p, 0 beyond the pixels
inline void spread_channel(const FusionTrainingScratch& k, int64_t c) {
    for (int64_t i = 0; i < k.images; ++i) fill(k.row + i * k.area, k.area, k.channel[c * k.images + i]);
    fill(k.row + k.images * k.area, k.pitch - k.images * k.area, 0.0f);
}

void fusion_forward_strip(const FusionTrainingCall& call, const Strip& strip, float* scratch) {
    const Sizes& s = call.sizes;
    const int64_t c = s.channels;
    const FusionTrainingScratch k(call, strip.rows / s.height, scratch);
    compute_branches(call, k, strip, true);

    const ForwardCall kba = k.kba(call);
    const int64_t step = kba_strip_rows(kKbaForwardPixels, s.width);
    for (int64_t r = 0; r < strip.rows; r += step)
        forward_strip(kba, Strip{r, smaller(step, strip.rows - r), 0, s.width}, 0, s.groups(), k.strip);
    clear_tail(k.k, k.pitch, c, strip.pixels());
    scatter_panel(call.filtered, 0, c, k.k, k.pitch, s, strip);
    for (int64_t j = 0; j < c; ++j) {
        spread_channel(k, j);
        const float scale = call.parameters[kKbaScale][j];
        for (int64_t i = 0; i < k.pitch; i += kLanes) {
            const int64_t at = j * k.pitch + i;
            store(k.m + at, (load(k.k + at) * scale + load(k.v + at)) * load(k.st + at) * load(k.row + i));
        }
    }
    multiply_add(k.dy, k.out, k.out_bias, k.m, k.pitch, c, c);
    scatter_panel(call.y, 0, c, k.dy, k.pitch, s, strip);
}

}  // namespace
