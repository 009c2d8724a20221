// The plain data that the Python module, the drivers and the kernels exchange.
//
// Ordinary code and code compiled for one instruction set both include this header. Both could emit an ordinary inline
// function, and the linker could keep the wrong copy, so the functions here are always inlined.
#pragma once

#include <cstdint>

#define KBNET_INLINE __attribute__((always_inline)) inline

namespace kbnet {

// Floats from one channel to the next in planar memory, at least `floats`: an odd number of cache lines. At an even
// number, channels share sets of the L1 cache, and at powers of two there are so few sets left that they evict each other.
KBNET_INLINE constexpr int64_t channel_pitch(int64_t floats) { return ((floats + 15) / 16 | 1) * 16; }

// A non-owning view of a tensor [batch, channels, height, width] in any memory format (strides in elements).
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
    // Number of weights of one output channel and one basis.
    KBNET_INLINE int64_t taps() const { return group * kernel * kernel; }
};

// A block of pixels: rows [row0, row0 + rows) of all images stacked vertically, columns [col0, col0 + cols).
struct Strip {
    int64_t row0, rows, col0, cols;

    KBNET_INLINE int64_t pixels() const { return rows * cols; }
};

// A contiguous array of the caller; data == nullptr if absent (no bias, no scale).
struct Matrix {
    const void* data;
    bool bfloat16;  // else float32
};

struct ForwardCall {
    Sizes sizes;
    Tensor4 x, coefficients, y;
    Matrix weight;  // [N, C, G, k, k]
    Matrix bias;    // [N, C]
    bool split;     // float32: products of split numbers (products.h) are accurate enough
    // The weights of all groups, packed by Kernels::forward_pack, or forward_tile_pack; null: each strip or tile packs them.
    float* packed;
};

struct BackwardCall {
    Sizes sizes;
    Tensor4 x, coefficients, dy;
    Matrix weight, bias;
    float* packed;
    Tensor4 dx, dcoefficients;  // data == nullptr: not needed
    bool want_weight;           // whether the gradients of weight and bias are needed
};

// One thread's share of a backward call.
struct BackwardShare {
    int64_t group0, group1;
    float* window;        // sums of dx, [rows][channels of these groups][W]; its first row is
    int64_t window_row0;  // this row of the stacked images
    float* dweight;       // sums over this thread's pixels, [groups][taps + 1][dweight_pitch]; the last tap is the bias
};

// A rectangle of pixels of one image.
struct Tile {
    int64_t image, row0, rows, col0, cols;
};

// The fusion half of a block in inference (fusion.h), x [B, C, H, W] -> y, with D hidden channels.
struct FusionCall {
    Sizes sizes;  // of x; bases, group and kernel are the operator's
    int64_t hidden, head, static_group, static_kernel;
    bool gelu, paired;  // paired: products of bfloat16 pairs
    float eps;
    Tensor4 x, y;
    Matrix norm_weight, norm_bias;                        // [C]
    Matrix static_in, static_in_bias;                     // [D, C], [D]
    Matrix static_conv, static_conv_bias;                 // [D, static_group, static_kernel, static_kernel], [D]
    Matrix adaptive_in, adaptive_in_bias;                 // [D, C], [D]
    Matrix adaptive_conv, adaptive_conv_bias;             // [D, 1, 3, 3], [D]
    Matrix head_conv, head_conv_bias;                     // [head, C / head, 3, 3], [head]
    Matrix expand, expand_bias, projection, projection_bias;  // [N, head / 2], [N], [N, C], [N]
    Matrix coefficient_scale;                             // [N]
    Matrix bases, bases_bias, kba_scale;                  // [N, D, G, k, k], [N, D], [D]
    Matrix out, out_bias, out_scale;                      // [C, D], [C], [C]
    // The channel branch: one value per `cell` x `cell` pixels, to interpolate, or one per image if the grid is 1x1.
    const float* means;  // [B or 1, D, grid_rows, grid_cols]
    int64_t means_batch, grid_rows, grid_cols, cell;
    const float* packed;  // the parameters, packed by fusion_pack
};

// The feed-forward half of KBNet-S's block, x + out(gate(in(norm(x)))), with 2 D hidden channels; y can be x.
struct FeedForwardCall {
    Sizes sizes;
    int64_t hidden;  // D
    bool paired;
    float eps;
    Tensor4 x, y;
    Matrix norm_weight, norm_bias, in, in_bias, out, out_bias, out_scale;
    const float* packed;  // the parameters, packed by feed_forward_pack
};

// The attention half of KBNet-L's block, x [B, C, H, W] -> y = x + out(attention v), with q, k, v = conv(qkv(norm(x))).
struct AttentionCall {
    Sizes sizes;
    int64_t heads;
    bool paired;
    float eps;
    Tensor4 x, y;
    Matrix norm_weight, norm_bias;    // [C]
    Matrix qkv, qkv_bias;             // [3 C, C], [3 C]
    Matrix conv, conv_bias;           // [3 C, 1, 3, 3], [3 C]
    Matrix out, out_bias;             // [C, C], [C]. For attention_pack, out is [out_batch, C, C] float32:
    int64_t out_batch;                // the layer's weight times the attention, of every image or of all together
    const float* packed;              // the parameters, packed by attention_pack

    // Sums over pixels: [heads, C / heads, C / heads] products of q and k, [C] squares of q, [C] squares of k.
    KBNET_INLINE int64_t sums() const { return sizes.channels * (sizes.channels / heads) + 2 * sizes.channels; }
};

// The feed-forward half in training, float32: computes y, or dx for a given dy. The sums for the parameters' gradients are
// contiguous, in the order norm_weight, norm_bias, in, in_bias, out, out_bias; those of `out` and its bias leave out
// the scale.
struct FeedForwardTrainingCall {
    Sizes sizes;
    int64_t hidden;  // D
    float eps;
    Tensor4 x, y, dy, dx;
    const float *norm_weight, *norm_bias, *in, *in_bias, *out, *out_bias, *out_scale;

    KBNET_INLINE int64_t sums() const {
        return 2 * sizes.channels + 2 * hidden * (sizes.channels + 1) + sizes.channels * (hidden + 1);
    }
};

// The parameters of the fusion half in training, in the order of inputs and gradients.
enum FusionParameter {
    kNormWeight, kNormBias, kMix, kMixBias, kStaticIn, kStaticInBias, kStaticConv, kStaticConvBias, kAdaptiveIn,
    kAdaptiveInBias, kAdaptiveConv, kAdaptiveConvBias, kHeadConv, kHeadConvBias, kExpand, kExpandBias, kProjection,
    kProjectionBias, kCoefficientScale, kBases, kBasesBias, kKbaScale, kOut, kOutBias, kOutScale, kFusionParameters
};

// The fusion half of KBNet-S's block with 3x3 depthwise convolutions in both branches, in training. Float32.
struct FusionTrainingCall {
    Sizes sizes;  // of x; bases, group and kernel are the operator's
    int64_t head;
    float eps;
    Tensor4 x, y;
    Tensor4 filtered;  // the operator's value [B, C, H, W]: written by the forward pass, read by the backward pass
    Tensor4 dy, dx;    // of the backward pass
    const float* parameters[kFusionParameters];
    float* packed;  // the bases, packed by Kernels::forward_pack, or backward_pack for the backward pass

    KBNET_INLINE int64_t size(int parameter) const {
        const int64_t c = sizes.channels, n = sizes.bases;
        switch (parameter) {
            case kMix: case kStaticIn: case kAdaptiveIn: case kOut: return c * c;
            case kStaticConv: case kAdaptiveConv: case kHeadConv: return 9 * c;
            case kHeadConvBias: return head;
            case kExpand: return n * (head / 2);
            case kProjection: return n * c;
            case kExpandBias: case kProjectionBias: case kCoefficientScale: return n;
            case kBases: return n * c * sizes.taps();
            case kBasesBias: return n * c;
            default: return c;
        }
    }
    // Offset of a parameter's sums in those of a thread. The bases' sums, like BackwardShare::dweight, come last.
    KBNET_INLINE int64_t sums_at(int parameter) const {
        int64_t at = 0;
        for (int i = 0; i < parameter; ++i)
            if (i != kBases && i != kBasesBias) at += size(i);
        return at;
    }
};

// Sums over cells of cell_rows x cell_cols pixels of the normalized x: [B, C, grid_rows, grid_cols].
struct SumsCall {
    Sizes sizes;
    float eps;
    Tensor4 x;
    Matrix norm_weight, norm_bias;
    float* sums;
    int64_t cell_rows, cell_cols;

    KBNET_INLINE int64_t grid_rows() const { return (sizes.height + cell_rows - 1) / cell_rows; }
    KBNET_INLINE int64_t grid_cols() const { return (sizes.width + cell_cols - 1) / cell_cols; }
};

// A convolution outside the blocks of a network (edges.h). Float32, with contiguous rows of pixels. kUnshuffle and kMix
// add nothing; y of kMix can be x.
enum class Edge { kSame, kDown, kUp, kMix, kUnshuffle, kShuffle };

struct EdgeCall {
    Edge kind;
    int64_t batch, channels, out_channels;
    int64_t height, width;  // of the image that is split into tiles: y, but x for kUp, kUnshuffle and kShuffle
    Tensor4 x, y, added;    // added: same shape as y, or no data; can be y itself
    Matrix weight, bias;    // in PyTorch's layout; bias can be missing
    const float* packed;    // the weights, packed by edge_pack
};

// One build of the kernels.
struct Kernels {
    const char* name;
    bool has_pairs;              // products of bfloat16 pairs
    bool (*pairs_are_faster)();  // measures whether they are faster here than products of float32
    bool (*works)();             // computes something whose result is known
    int64_t (*forward_packed)(const ForwardCall&);  // number of floats of one group's packed weights
    void (*forward_pack)(const ForwardCall&, int64_t group, float* packed);
    int64_t (*forward_scratch)(const ForwardCall&, const Strip& largest);  // number of floats of scratch per thread
    void (*forward_strip)(const ForwardCall&, const Strip&, int64_t group0, int64_t group1, float* scratch);
    int64_t (*forward_tile_packed)(const ForwardCall&);
    void (*forward_tile_pack)(const ForwardCall&, int64_t group, float* packed);
    int64_t (*forward_tile_scratch)(const ForwardCall&, const Tile& largest);
    void (*forward_tile)(const ForwardCall&, const Tile&, int64_t group0, int64_t group1, float* scratch);
    int64_t (*backward_packed)(const BackwardCall&);
    void (*backward_pack)(const BackwardCall&, int64_t group, float* packed);
    int64_t (*backward_scratch)(const BackwardCall&, const Strip& largest);
    void (*backward_strip)(const BackwardCall&, const BackwardShare&, const Strip&, float* scratch);
    // Writes a row of dx, [channels][W]; rows are counted in the stacked images.
    void (*write_dx_row)(const BackwardCall&, int64_t channel0, int64_t channels, int64_t row, const float* from);
    int64_t (*dweight_pitch)(const Sizes&);  // floats between the taps of BackwardShare::dweight
    // Packed parameters of halves of a block: their number of floats, and one of `parts` shares of the packing.
    int64_t (*fusion_packed)(const FusionCall&);
    void (*fusion_pack)(const FusionCall&, float* packed, int64_t part, int64_t parts);
    int64_t (*feed_forward_packed)(const FeedForwardCall&);
    void (*feed_forward_pack)(const FeedForwardCall&, float* packed, int64_t part, int64_t parts);
    int64_t (*attention_packed)(const AttentionCall&);
    void (*attention_pack)(const AttentionCall&, float* packed, int64_t part, int64_t parts);
    int64_t (*fusion_scratch)(const FusionCall&, const Tile& largest);
    void (*fusion_tile)(const FusionCall&, const Tile&, float* scratch);
    int64_t (*feed_forward_scratch)(const FeedForwardCall&, const Tile& largest);
    void (*feed_forward_tile)(const FeedForwardCall&, const Tile&, float* scratch);
    int64_t (*attention_scratch)(const AttentionCall&, const Tile& largest);
    void (*attention_sums_tile)(const AttentionCall&, const Tile&, float* scratch, float* sums);  // adds to the sums
    void (*attention_tile)(const AttentionCall&, const Tile&, float* scratch);
    // Call `prepare` once per thread, with the scratch of its strips.
    int64_t (*feed_forward_training_scratch)(const FeedForwardTrainingCall&, const Strip& largest);
    void (*feed_forward_training_prepare)(const FeedForwardTrainingCall&, float* scratch);
    void (*feed_forward_strip)(const FeedForwardTrainingCall&, const Strip&, float* scratch);
    void (*feed_forward_backward_strip)(const FeedForwardTrainingCall&, const Strip&, float* scratch, float* sums);
    // On strips of whole images; call `prepare` as above.
    int64_t (*fusion_training_scratch)(const FusionTrainingCall&, int64_t images);
    void (*fusion_training_prepare)(const FusionTrainingCall&, float* scratch);
    void (*fusion_forward_strip)(const FusionTrainingCall&, const Strip&, float* scratch);
    void (*fusion_backward_strip)(const FusionTrainingCall&, const Strip&, float* scratch, float* sums, float* bases_sums);
    int64_t (*sums_scratch)(const SumsCall&);
    void (*sums_row)(const SumsCall&, int64_t image, int64_t grid_row, float* scratch);
    int64_t (*edge_packed)(const EdgeCall&);  // number of floats of packed weights
    void (*edge_pack)(const EdgeCall&, float* packed);
    int64_t (*edge_scratch)(const EdgeCall&, const Tile& largest);
    void (*edge_tile)(const EdgeCall&, const Tile&, float* scratch);
};

}  // namespace kbnet
