// The feed-forward half of KBNet-S's block in training over a strip of pixels. The gradient only needs its input.
//
//     y = x + scale * (W2 q + b2),  q = f1 * f2,  (f1, f2) = W1 u + b1,  u = norm(x)
//
// The sum over pixels D = sum dy q^T gives both dW2 = scale * D and dscale = <D, W2> + ...
#pragma once

#include "planar.h"

namespace {

using kbnet::FeedForwardTrainingCall;

struct FeedForwardTrainingScratch {
    int64_t pitch;
    float *in, *out, *out_transposed, *in_transposed, *in_bias, *out_bias, *zeros;  // packed once per thread
    float *x, *scale, *u, *f, *q, *dq, *dy, *du;
    int64_t floats;

    FeedForwardTrainingScratch(const FeedForwardTrainingCall& call, const Strip& strip, float* base)
        : pitch(planar_pitch(strip.pixels())) {
        const int64_t c = call.sizes.channels, d = call.hidden, c4 = round_up(c, kRows), d4 = round_up(d, kRows);
        Arena arena{base};
        // Buffers that don't depend on the strip come first: they stay the same from strip to strip.
        in = arena.take(packed_floats(2 * d, c));
        out = arena.take(packed_floats(c, d));
        out_transposed = arena.take(packed_floats(d, c));
        in_transposed = arena.take(packed_floats(c, 2 * d));
        in_bias = arena.take(round_up(2 * d, kRows));
        out_bias = arena.take(c4);
        zeros = arena.take(larger(c4, d4));
        scale = arena.take(pitch);
        x = arena.take(c * pitch), u = arena.take(c * pitch), dy = arena.take(c4 * pitch);
        f = arena.take(round_up(2 * d, kRows) * pitch);
        q = arena.take(d * pitch), dq = arena.take(d4 * pitch), du = arena.take(c4 * pitch);
        floats = arena.used;
    }
};

inline int64_t feed_forward_training_scratch(const FeedForwardTrainingCall& call, const Strip& largest) {
    return FeedForwardTrainingScratch(call, largest, nullptr).floats;
}

void feed_forward_training_prepare(const FeedForwardTrainingCall& call, float* scratch) {
    const FeedForwardTrainingScratch k(call, Strip{0, 1, 0, 1}, scratch);
    const int64_t c = call.sizes.channels, d = call.hidden;
    pack_matrix(k.in, call.in, 2 * d, c, nullptr);
    pack_matrix(k.out, call.out, c, d, call.out_scale);
    pack_transpose(k.out_transposed, call.out, d, c, call.out_scale);
    pack_transpose(k.in_transposed, call.in, c, 2 * d, nullptr);
    fill(k.in_bias, round_up(2 * d, kRows), 0.0f);
    std::memcpy(k.in_bias, call.in_bias, static_cast<std::size_t>(2 * d) * sizeof(float));
    for (int64_t i = 0; i < round_up(c, kRows); ++i) k.out_bias[i] = i < c ? call.out_bias[i] * call.out_scale[i] : 0.0f;
    fill(k.zeros, larger(round_up(c, kRows), round_up(d, kRows)), 0.0f);
}

void feed_forward_strip(const FeedForwardTrainingCall& call, const Strip& strip, float* scratch) {
    const FeedForwardTrainingScratch k(call, strip, scratch);
    const int64_t c = call.sizes.channels, d = call.hidden, pitch = k.pitch;
    float* const y = k.dy;
    gather_panel(k.x, pitch, call.x, 0, c, call.sizes, strip);
    clear_tail(k.x, pitch, c, strip.pixels());
    std::memcpy(y, k.x, static_cast<std::size_t>(c * pitch) * sizeof(float));
    norm(k.x, k.scale, k.u, pitch, c, call.norm_weight, call.norm_bias, call.eps);
    multiply(k.f, k.in, k.in_bias, k.u, pitch, 2 * d, c);
    for (int64_t i = 0; i < d * pitch; i += kLanes) store(k.q + i, load(k.f + i) * load(k.f + d * pitch + i));
    multiply_add(y, k.out, k.out_bias, k.q, pitch, c, d);
    scatter_panel(call.y, 0, c, y, pitch, call.sizes, strip);
}

void feed_forward_backward_strip(const FeedForwardTrainingCall& call, const Strip& strip, float* scratch, float* sums) {
    const FeedForwardTrainingScratch k(call, strip, scratch);
    const int64_t c = call.sizes.channels, d = call.hidden, pitch = k.pitch, pixels = strip.pixels();
    // In the order of the parameters; see FeedForwardTrainingCall.
    float* const dnorm_weight = sums;
    float* const dnorm_bias = dnorm_weight + c;
    float* const din = dnorm_bias + c;
    float* const din_bias = din + 2 * d * c;
    float* const dout = din_bias + 2 * d;
    float* const dout_bias = dout + c * d;

    gather_panel(k.x, pitch, call.x, 0, c, call.sizes, strip);
    gather_panel(k.dy, pitch, call.dy, 0, c, call.sizes, strip);
    clear_tail(k.x, pitch, c, pixels);
    clear_tail(k.dy, pitch, c, pixels);
    norm(k.x, k.scale, k.u, pitch, c, call.norm_weight, call.norm_bias, call.eps);
    multiply(k.f, k.in, k.in_bias, k.u, pitch, 2 * d, c);
    multiply(k.dq, k.out_transposed, k.zeros, k.dy, pitch, d, c);
    for (int64_t i = 0; i < d * pitch; i += kLanes) {
        float *first = k.f + i, *second = first + d * pitch;
        const Vec a = load(first), b = load(second), g = load(k.dq + i);
        store(k.q + i, a * b);
        store(first, g * b);
        store(second, g * a);
    }
    add_outer(dout, k.dy, c, k.q, d, pitch);
    add_row_sums(dout_bias, k.dy, pitch, c);
    add_outer(din, k.f, 2 * d, k.u, c, pitch);
    add_row_sums(din_bias, k.f, pitch, 2 * d);
    multiply(k.du, k.in_transposed, k.zeros, k.f, pitch, c, 2 * d);
    norm_backward(k.dy, k.du, k.x, k.scale, pitch, c, call.norm_weight, dnorm_weight, dnorm_bias);
    scatter_panel(call.dx, 0, c, k.dy, pitch, call.sizes, strip);
}

}  // namespace
