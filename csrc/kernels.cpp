// Kernel basis attention over one strip of pixels, forward and backward. Compiled once per instruction set.
//
// With u[t, p] the taps of a group at pixel p (and a last tap that is always 1, which carries the bias):
//
//     y[c, p]   = sum_n a[n, p] * sum_t W[n, c, t] u[t, p]
//     da[n, p]  = sum_(c,t) W[n, c, t] * (dy[c, p] u[t, p])
//     du[t, p]  = sum_(n,c) W[n, c, t] * (a[n, p] dy[c, p])
//     dW[n,c,t] = sum_p (a[n, p] dy[c, p]) * u[t, p]
#include "problem.h"
#include "strips.h"
#include "tiles.h"
#include "vec.h"

namespace {

using namespace kbnet;

constexpr int kWide = kRegisters == 32 ? 8 : 4;  // rows of a register tile; 3 vectors of pixels are its columns
constexpr int64_t kBlock = 3 * kLanes;           // pixels of a register tile

// Hands out pieces of one allocation, each aligned to a cache line. With a null base it only adds up sizes.
struct Arena {
    float* base;
    int64_t used = 0;

    float* take(int64_t floats) {
        const int64_t at = used;
        used += round_up(floats, 16);
        return base ? base + at : nullptr;
    }
};

// packed[n][c][t] = the bases of one group, each followed by its bias
inline void pack_weight(float* packed, const float* weight, const float* bias, int64_t channel0, const Sizes& s) {
    const int64_t taps = s.taps();
    for (int64_t n = 0; n < s.bases; ++n)
        for (int64_t c = 0; c < s.group; ++c, packed += taps + 1) {
            const int64_t row = n * s.channels + channel0 + c;
            std::memcpy(packed, weight + row * taps, taps * sizeof(float));
            packed[taps] = bias[row];
        }
}

// ---------------------------------------------------------------------------------------------------- forward

struct ForwardScratch {
    int64_t pitch;
    Planes shape;
    float *planes, *taps, *coefficients, *out, *weight;
    int64_t floats;

    ForwardScratch(const Sizes& s, const Strip& strip, float* base)
        : pitch(panel_pitch(strip.pixels())), shape(s, strip) {
        Arena arena{base};
        planes = arena.take(shape.floats(s));
        taps = arena.take((s.taps() + 1) * pitch);
        coefficients = arena.take(s.bases * pitch);
        out = arena.take(s.group * pitch);
        weight = arena.take(s.bases * s.group * (s.taps() + 1));
        floats = arena.used;
    }
};

template <int V>
void mix_block(const Sizes& s, const ForwardScratch& k, int64_t p) {
    const int64_t inner = s.taps() + 1, weight_pitch = s.group * inner, pitch = k.pitch;
    const float* left = k.taps + p;
    for (int64_t c = 0; c < s.group; ++c) {
        float* out = k.out + c * pitch + p;
        for (int v = 0; v < V; ++v) store(out + v * kLanes, Vec{});
        const float* weight = k.weight + c * inner;
        const float* right = k.coefficients + p;
        int64_t n = s.bases;
        for (; n >= kWide; n -= kWide, weight += kWide * weight_pitch, right += kWide * pitch)
            mix_tile<V, kWide>(out, left, pitch, right, pitch, weight, weight_pitch, inner);
        for (; n >= 2; n -= 2, weight += 2 * weight_pitch, right += 2 * pitch)
            mix_tile<V, 2>(out, left, pitch, right, pitch, weight, weight_pitch, inner);
        if (n) mix_tile<V, 1>(out, left, pitch, right, pitch, weight, weight_pitch, inner);
    }
}

void forward_strip(const ForwardCall& call, const Strip& strip, int64_t group0, int64_t group1, float* scratch) {
    const Sizes& s = call.sizes;
    const ForwardScratch k(s, strip, scratch);
    const int64_t pixels = strip.pixels();
    gather_panel(k.coefficients, k.pitch, call.coefficients, 0, s.bases, s, strip);
    for (int64_t g = group0; g < group1; ++g) {
        const int64_t channel0 = g * s.group;
        pack_weight(k.weight, call.weight, call.bias, channel0, s);
        gather_planes(k.planes, k.shape, call.x, channel0, s, strip);
        unfold(k.taps, k.pitch, k.planes, k.shape, s, strip);
        int64_t p = 0;
        for (; p + kBlock <= pixels; p += kBlock) mix_block<3>(s, k, p);
        for (; p + kLanes < pixels; p += 2 * kLanes) mix_block<2>(s, k, p);
        if (p < pixels) mix_block<1>(s, k, p);
        scatter_panel(call.y, channel0, s.group, k.out, k.pitch, s, strip);
    }
}

int64_t forward_scratch(const Sizes& s, const Strip& largest) { return ForwardScratch(s, largest, nullptr).floats; }

// --------------------------------------------------------------------------------------------------- backward

int64_t dweight_pitch(const Sizes& s) { return round_up(s.group * s.bases, 16); }

struct BackwardScratch {
    int64_t pitch, bases_pitch, z_pitch;
    Planes shape;
    float *planes, *taps, *coefficients, *dy, *dtaps, *dcoefficients, *weight, *block, *coefficients_t, *z;
    int64_t floats;

    BackwardScratch(const Sizes& s, const Strip& strip, float* base)
        : pitch(panel_pitch(strip.pixels())),
          bases_pitch(round_up(s.bases, 16)),
          z_pitch(dweight_pitch(s)),
          shape(s, strip) {
        const int64_t taps1 = s.taps() + 1;
        Arena arena{base};
        planes = arena.take(shape.floats(s));
        taps = arena.take(taps1 * pitch);
        coefficients = arena.take(s.bases * pitch);
        dy = arena.take(s.group * pitch);
        dtaps = arena.take(s.taps() * pitch);
        dcoefficients = arena.take(s.bases * pitch);
        weight = arena.take(s.bases * s.group * taps1);
        block = arena.take(s.group * (s.bases > taps1 ? s.bases : taps1) * kBlock);
        coefficients_t = arena.take(strip.pixels() * bases_pitch);
        z = arena.take(strip.pixels() * z_pitch + 16);
        floats = arena.used;
    }
};

// Calls product_tile over `rows` output rows: R at a time, then what is left.
template <int V, int R>
inline void product_rows(int64_t rows, float* out, int64_t out_pitch, const float* left, const float* weight,
                         int64_t weight_row, int64_t weight_step, int64_t inner) {
    for (; rows >= R; rows -= R, out += R * out_pitch, weight += R * weight_row)
        product_tile<V, R>(out, out_pitch, left, kBlock, weight, weight_row, weight_step, inner);
    if constexpr (R > 4) {
        if (rows >= 4) {
            product_tile<V, 4>(out, out_pitch, left, kBlock, weight, weight_row, weight_step, inner);
            rows -= 4, out += 4 * out_pitch, weight += 4 * weight_row;
        }
    }
    for (; rows > 0; --rows, out += out_pitch, weight += weight_row)
        product_tile<V, 1>(out, out_pitch, left, kBlock, weight, weight_row, weight_step, inner);
}

// du[t] += sum_(n,c) W[n,c,t] (a[n] dy[c]) for V vectors of pixels
template <int V>
void dtaps_block(const Sizes& s, const BackwardScratch& k, int64_t p) {
    float* z = k.block;
    for (int64_t n = 0; n < s.bases; ++n) {
        Vec a[V];
        for (int v = 0; v < V; ++v) a[v] = load(k.coefficients + n * k.pitch + p + v * kLanes);
        for (int64_t c = 0; c < s.group; ++c, z += kBlock)
            for (int v = 0; v < V; ++v) store(z + v * kLanes, a[v] * load(k.dy + c * k.pitch + p + v * kLanes));
    }
    const int64_t taps = s.taps();
    for (int64_t t = 0; t < taps; ++t)
        for (int v = 0; v < V; ++v) store(k.dtaps + t * k.pitch + p + v * kLanes, Vec{});
    float* out = k.dtaps + p;
    const int64_t inner = s.bases * s.group;
    if (kWide == 8 && taps % 9 == 0)
        product_rows<V, kWide + 1>(taps, out, k.pitch, k.block, k.weight, 1, taps + 1, inner);
    else
        product_rows<V, kWide>(taps, out, k.pitch, k.block, k.weight, 1, taps + 1, inner);
}

// da[n] += sum_(c,t) W[n,c,t] (dy[c] u[t]) for V vectors of pixels
template <int V>
void dcoefficients_block(const Sizes& s, const BackwardScratch& k, int64_t p) {
    const int64_t taps1 = s.taps() + 1;
    float* products = k.block;
    for (int64_t c = 0; c < s.group; ++c) {
        Vec dy[V];
        for (int v = 0; v < V; ++v) dy[v] = load(k.dy + c * k.pitch + p + v * kLanes);
        for (int64_t t = 0; t < taps1; ++t, products += kBlock)
            for (int v = 0; v < V; ++v) store(products + v * kLanes, dy[v] * load(k.taps + t * k.pitch + p + v * kLanes));
    }
    const int64_t inner = s.group * taps1;
    product_rows<V, kWide>(s.bases, k.dcoefficients + p, k.pitch, k.block, k.weight, inner, 1, inner);
}

// z[p][c][n] = a[n, p] dy[c, p], pixels outermost
inline void fill_z(const Sizes& s, const BackwardScratch& k, int64_t pixels) {
    for (int64_t p = 0; p < pixels; ++p) {
        const float* a = k.coefficients_t + p * k.bases_pitch;
        float* to = k.z + p * k.z_pitch;
        for (int64_t c = 0; c < s.group; ++c, to += s.bases) {
            const float d = k.dy[c * k.pitch + p];
            // Runs past N into the next channel's place, which is written next.
            for (int64_t n = 0; n < s.bases; n += kLanes) store(to + n, load(a + n) * d);
        }
    }
}

template <int V, int T>
inline void outer_columns(const Sizes& s, const BackwardScratch& k, float* out, const float* z, int64_t pixels) {
    const int64_t taps1 = s.taps() + 1;
    int64_t t = 0;
    for (; t + T <= taps1; t += T)
        outer_tile<V, T>(out + t * k.z_pitch, k.z_pitch, z, k.z_pitch, k.taps + t * k.pitch, k.pitch, pixels);
    for (; t < taps1; ++t)
        outer_tile<V, 1>(out + t * k.z_pitch, k.z_pitch, z, k.z_pitch, k.taps + t * k.pitch, k.pitch, pixels);
}

// dW[t][c, n] += sum_p z[p][c, n] u[t, p]
inline void add_dweight(const Sizes& s, const BackwardScratch& k, float* out, int64_t pixels) {
    constexpr int kAccumulators = 3 * kWide;
    int64_t m = 0;
    const int64_t width = s.group * s.bases;
    for (; m + 3 * kLanes < width; m += 4 * kLanes)
        outer_columns<4, kAccumulators / 4>(s, k, out + m, k.z + m, pixels);
    if (m + 2 * kLanes < width)
        outer_columns<3, kAccumulators / 3>(s, k, out + m, k.z + m, pixels);
    else if (m + kLanes < width)
        outer_columns<2, kAccumulators / 2>(s, k, out + m, k.z + m, pixels);
    else if (m < width)
        outer_columns<1, kAccumulators / 2>(s, k, out + m, k.z + m, pixels);
}

// dx += planes, minding who owns which row
inline void scatter_dx(const BackwardCall& call, const BackwardShare& share, const BackwardScratch& k,
                       int64_t channel0, const Strip& strip) {
    const Sizes& s = call.sizes;
    const Tensor4& dx = call.dx;
    const int64_t half = s.kernel / 2;
    const int64_t left = smaller(half, strip.col0);
    const int64_t right = smaller(half, s.width - strip.col0 - strip.cols);
    const int64_t n = left + strip.cols + right, col = strip.col0 - left;
    for_each_segment(s, strip, [&](const Segment& seg) {
        for (int64_t r = 0; r < seg.rows + 2 * half; ++r) {
            const int64_t y = seg.y - half + r, row = seg.image * s.height + y;
            if (y < 0 || y >= s.height) continue;
            const float* from = k.planes + (seg.plane + r) * k.shape.pitch + half - left;
            for (int64_t j = 0; j < s.group; ++j, from += k.shape.channel) {
                const int64_t c = channel0 + j;
                if (row < share.band_begin)
                    add_row(share.edge_above + (c * half + row - share.band_begin + half) * s.width + col, 1, from, n);
                else if (row >= share.band_end)
                    add_row(share.edge_below + (c * half + row - share.band_end) * s.width + col, 1, from, n);
                else
                    add_row(dx.data + seg.image * dx.stride_b + c * dx.stride_c + y * dx.stride_y + col * dx.stride_x,
                            dx.stride_x, from, n);
            }
        }
    });
}

// Runs block<V>(pixel) over the strip, whole register tiles first.
#define KBNET_FOR_BLOCKS(block)                                               \
    do {                                                                      \
        int64_t p = 0;                                                        \
        for (; p + kBlock <= pixels; p += kBlock) block<3>(s, k, p);          \
        for (; p + kLanes < pixels; p += 2 * kLanes) block<2>(s, k, p);       \
        if (p < pixels) block<1>(s, k, p);                                    \
    } while (0)

void backward_strip(const BackwardCall& call, const BackwardShare& share, const Strip& strip, float* scratch) {
    const Sizes& s = call.sizes;
    const BackwardScratch k(s, strip, scratch);
    const int64_t pixels = strip.pixels(), taps1 = s.taps() + 1;
    const bool want_dx = call.dx.data, want_da = call.dcoefficients.data;

    gather_panel(k.coefficients, k.pitch, call.coefficients, 0, s.bases, s, strip);
    if (want_da) std::memset(k.dcoefficients, 0, s.bases * k.pitch * sizeof(float));
    if (call.want_weight)
        for (int64_t p = 0; p < pixels; ++p)
            for (int64_t n = 0; n < k.bases_pitch; ++n)
                k.coefficients_t[p * k.bases_pitch + n] = n < s.bases ? k.coefficients[n * k.pitch + p] : 0.0f;

    for (int64_t g = 0; g < s.groups(); ++g) {
        const int64_t channel0 = g * s.group;
        gather_panel(k.dy, k.pitch, call.dy, channel0, s.group, s, strip);
        if (want_dx || want_da) pack_weight(k.weight, call.weight, call.bias, channel0, s);
        if (want_da || call.want_weight) {
            gather_planes(k.planes, k.shape, call.x, channel0, s, strip);
            unfold(k.taps, k.pitch, k.planes, k.shape, s, strip);
        }
        if (want_da) KBNET_FOR_BLOCKS(dcoefficients_block);
        if (call.want_weight) {
            fill_z(s, k, pixels);
            add_dweight(s, k, share.dweight + g * taps1 * k.z_pitch, pixels);
        }
        if (want_dx) {
            KBNET_FOR_BLOCKS(dtaps_block);
            std::memset(k.planes, 0, k.shape.floats(s) * sizeof(float));
            fold(k.planes, k.shape, k.dtaps, k.pitch, s, strip);
            scatter_dx(call, share, k, channel0, strip);
        }
    }
    if (want_da) scatter_panel(call.dcoefficients, 0, s.bases, k.dcoefficients, k.pitch, s, strip);
}

int64_t backward_scratch(const Sizes& s, const Strip& largest) { return BackwardScratch(s, largest, nullptr).floats; }

}  // namespace

// One symbol leaves this file, named after the instruction set.
#define KBNET_JOIN2(a, b) a##b
#define KBNET_JOIN(a, b) KBNET_JOIN2(a, b)
#define KBNET_TEXT2(a) #a
#define KBNET_TEXT(a) KBNET_TEXT2(a)
extern "C" const kbnet::Kernels KBNET_JOIN(kbnet_kernels_, KBNET_ISA) = {
    KBNET_TEXT(KBNET_ISA), forward_scratch, forward_strip, backward_scratch, backward_strip, dweight_pitch};
