// The plain data that drivers, kernels and the Python module hand to one another.
//
// Only C-like structs here: this header is seen both by ordinary code and by the code compiled once per instruction
// set, and an inline function seen by both could end up, after linking, using instructions the machine lacks.
#pragma once

#include <cstdint>

namespace kbnet {

// A float tensor [batch, channels, height, width] owned by someone else, in any memory format (strides in elements).
struct Tensor4 {
    float* data;
    int64_t stride_b, stride_c, stride_y, stride_x;
};

// Sizes of one call. Output channel c reads the `group` input channels of group c / group.
struct Sizes {
    int64_t batch, channels, height, width;
    int64_t bases;  // N
    int64_t group;  // G
    int64_t kernel;  // k, odd

    int64_t groups() const { return channels / group; }
    int64_t taps() const { return group * kernel * kernel; }  // weights of one output channel and one basis
};

// A block of pixels: rows [row0, row0 + rows) of all images stacked on one another, columns [col0, col0 + cols).
struct Strip {
    int64_t row0, rows, col0, cols;

    int64_t pixels() const { return rows * cols; }
};

struct ForwardCall {
    Sizes sizes;
    Tensor4 x, coefficients, y;
    const float* weight;  // [N, C, G, k, k]
    const float* bias;    // [N, C]
};

struct BackwardCall {
    Sizes sizes;
    Tensor4 x, coefficients, dy;
    const float* weight;
    const float* bias;
    Tensor4 dx, dcoefficients;  // data == nullptr: not wanted
    bool want_weight;           // the bases and their biases
};

// Where one thread adds its share of a gradient.
struct BackwardShare {
    // Rows of dx outside [band_begin, band_end) belong to other threads: they go to the two `edge` buffers instead,
    // each [C, k/2, W], added to dx when everyone has finished.
    int64_t band_begin, band_end;
    float* edge_above;
    float* edge_below;
    // Partial sums [C/G, taps + 1, G * N padded]; the last tap is the bias.
    float* dweight;
};

// The entry points of one instruction set.
struct Kernels {
    const char* name;
    int64_t (*forward_scratch)(const Sizes&, const Strip& largest);  // floats of scratch a thread needs
    void (*forward_strip)(const ForwardCall&, const Strip&, int64_t group0, int64_t group1, float* scratch);
    int64_t (*backward_scratch)(const Sizes&, const Strip& largest);
    void (*backward_strip)(const BackwardCall&, const BackwardShare&, const Strip&, float* scratch);
    int64_t (*dweight_pitch)(const Sizes&);  // floats between the taps of BackwardShare::dweight
};

}  // namespace kbnet
