// The plain data that the Python module, the drivers and the kernels hand to one another.
//
// This header is seen both by ordinary code and by code compiled for one instruction set. An ordinary inline function
// could be emitted by both and merged by the linker into the wrong one, so those here are always inlined.
#pragma once

#include <cstdint>

#define KBNET_INLINE __attribute__((always_inline)) inline

namespace kbnet {

// A tensor [batch, channels, height, width] owned by someone else, in any memory format (strides in elements).
struct Tensor4 {
    void* data;
    int64_t stride_b, stride_c, stride_y, stride_x;
    bool bfloat16;  // else float32

    KBNET_INLINE int64_t at(int64_t b, int64_t c, int64_t y, int64_t x) const {
        return b * stride_b + c * stride_c + y * stride_y + x * stride_x;
    }
};

// Sizes of one call. Output channel c reads the `group` input channels of group c / group.
struct Sizes {
    int64_t batch, channels, height, width;
    int64_t bases;   // N
    int64_t group;   // G
    int64_t kernel;  // k, odd

    KBNET_INLINE int64_t groups() const { return channels / group; }
    KBNET_INLINE int64_t half() const { return kernel / 2; }
    // Weights of one output channel and one basis.
    KBNET_INLINE int64_t taps() const { return group * kernel * kernel; }
};

// A block of pixels: rows [row0, row0 + rows) of all images stacked on one another, columns [col0, col0 + cols).
struct Strip {
    int64_t row0, rows, col0, cols;

    KBNET_INLINE int64_t pixels() const { return rows * cols; }
};

struct ForwardCall {
    Sizes sizes;
    Tensor4 x, coefficients, y;
    const float* weight;  // [N, C, G, k, k]
    const float* bias;    // [N, C]
    float* packed;        // the weights of all groups as Kernels::forward_pack leaves them
};

struct BackwardCall {
    Sizes sizes;
    Tensor4 x, coefficients, dy;
    const float* weight;
    const float* bias;
    float* packed;
    Tensor4 dx, dcoefficients;  // data == nullptr: not wanted
    bool want_weight;           // the gradients of weight and bias
};

// What one thread of a backward call works on.
struct BackwardShare {
    int64_t group0, group1;
    float* window;        // sums of dx, [rows][channels of these groups][W], the first row being
    int64_t window_row0;  // this one of the stacked images
    float* dweight;       // sums over this thread's pixels, [groups][taps + 1][dweight_pitch]; the last tap is the bias
};

// One build of the kernels.
struct Kernels {
    const char* name;
    int64_t (*forward_packed)(const ForwardCall&);  // floats of packed weights of one group
    void (*forward_pack)(const ForwardCall&, int64_t group, float* packed);
    int64_t (*forward_scratch)(const ForwardCall&, const Strip& largest);  // floats of scratch of one thread
    void (*forward_strip)(const ForwardCall&, const Strip&, int64_t group0, int64_t group1, float* scratch);
    int64_t (*backward_packed)(const BackwardCall&);
    void (*backward_pack)(const BackwardCall&, int64_t group, float* packed);
    int64_t (*backward_scratch)(const BackwardCall&, const Strip& largest);
    void (*backward_strip)(const BackwardCall&, const BackwardShare&, const Strip&, float* scratch);
    // Writes a row of dx, [channels][W], the row counted in the stacked images.
    void (*write_dx_row)(const BackwardCall&, int64_t channel0, int64_t channels, int64_t row, const float* from);
    int64_t (*dweight_pitch)(const Sizes&);  // floats between the taps of BackwardShare::dweight
};

}  // namespace kbnet
