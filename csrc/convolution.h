// 3x3 convolutions of single channels in dense planar panels, with their gradients.
//
// A channel of a strip of whole images is copied into a plane with a border of zeros around every image. That costs one
// store per pixel, and every pixel is then read nine times or more.
#pragma once

#include "planar.h"

namespace {

constexpr int64_t kConvolutionRows = 4;  // rows at a time: overlapping neighbourhoods halve the loads

typedef int32_t IntVec __attribute__((vector_size(kLanes * 4)));

// The first n lanes of a, and the others of b.
inline Vec select(Vec a, Vec b, int64_t n) {
    if (n >= kLanes) return a;
    IntVec lane;
    for (int i = 0; i < kLanes; ++i) lane[i] = i;
    const IntVec chosen = lane < (IntVec{} + static_cast<int32_t>(n));
    return (Vec)(((IntVec)a & chosen) | ((IntVec)b & ~chosen));
}

struct Padded {
    int64_t images, height, width, pitch, each, length, lead;

    Padded(int64_t images_, int64_t height_, int64_t width_) : images(images_), height(height_), width(width_) {
        pitch = width + 2;
        each = (height + 2) * pitch;
        length = images * each;
        lead = round_up(pitch + 1, 16);  // neighbours of the border are read too
    }
    int64_t floats() const { return lead + length + pitch + 1 + kLanes; }

    // Visits groups of up to kConvolutionRows rows, with their first pixel in the padded and in a dense plane, and
    // their number.
    template <class Visit>
    void for_each_rows(Visit visit) const {
        for (int64_t i = 0; i < images; ++i)
            for (int64_t r = 0; r < height; r += kConvolutionRows)
                visit(lead + i * each + (r + 1) * pitch + 1, (i * height + r) * width,
                      smaller(kConvolutionRows, height - r));
    }
    // The borders of `plane` are already zero.
    void pad(float* plane, const float* channel) const {
        for (int64_t i = 0; i < images; ++i)
            for (int64_t r = 0; r < height; ++r, channel += width) {
                float* const to = plane + lead + i * each + (r + 1) * pitch + 1;
                for (int64_t x = 0; x < width; x += kLanes)
                    store(to + x, select(load(channel + x), load(to + x), width - x));
            }
    }
};

// to[r] = or += the convolution of R rows of a padded plane, at kLanes pixels starting at x
template <bool kAdd, int R>
inline void convolve_rows(float* to, int64_t width, const float* from, int64_t pitch, const float (&w)[9], float bias) {
    for (int64_t x = 0; x < width; x += kLanes) {
        Vec sums[R];
        for (int r = 0; r < R; ++r) sums[r] = Vec{} + bias;
#pragma GCC unroll 8
        for (int i = 0; i < R + 2; ++i)
#pragma GCC unroll 8
            for (int v = 0; v < 3; ++v) {
                const Vec f = load(from + (i - 1) * pitch + x + v - 1);
#pragma GCC unroll 8
                for (int r = 0; r < R; ++r)
                    if (i - r >= 0 && i - r < 3) sums[r] += f * w[(i - r) * 3 + v];
            }
        for (int r = 0; r < R; ++r) {
            float* const t = to + r * width + x;
            const Vec before = load(t);
            store(t, select(kAdd ? before + sums[r] : sums[r], before, width - x));
        }
    }
}

// channel = or += the convolution of the padded plane with nine weights; mirrored for the gradient. Can read and write
// back up to kLanes floats beyond the channel.
template <bool kAdd>
inline void convolve_channel(float* channel, const Padded& shape, const float* plane, const float* weight, float bias,
                             bool mirrored) {
    float w[9];
    for (int t = 0; t < 9; ++t) w[t] = weight[mirrored ? 8 - t : t];
    shape.for_each_rows([&](int64_t at, int64_t dense, int64_t rows) {
        if (rows == kConvolutionRows)
            return convolve_rows<kAdd, kConvolutionRows>(channel + dense, shape.width, plane + at, shape.pitch, w, bias);
        for (int64_t r = 0; r < rows; ++r)
            convolve_rows<kAdd, 1>(channel + dense + r * shape.width, shape.width, plane + at + r * shape.pitch,
                                   shape.pitch, w, bias);
    });
}

template <int R>
inline void add_row_products(Vec (&sums)[10], const float* dy, int64_t width, const float* x, int64_t pitch) {
    for (int64_t p = 0; p < width; p += kLanes) {
        Vec d[R];
        for (int r = 0; r < R; ++r) {
            d[r] = select(load(dy + r * width + p), Vec{}, width - p);
            sums[9] += d[r];
        }
#pragma GCC unroll 8
        for (int i = 0; i < R + 2; ++i)
#pragma GCC unroll 8
            for (int v = 0; v < 3; ++v) {
                const Vec f = load(x + (i - 1) * pitch + p + v - 1);
#pragma GCC unroll 8
                for (int r = 0; r < R; ++r)
                    if (i - r >= 0 && i - r < 3) sums[(i - r) * 3 + v] += f * d[r];
            }
    }
}

// dweight[t] += sum over pixels of dy times x at the tap; dbias += sum of dy. x is padded; dy is dense, and up to
// kLanes floats beyond it are read.
inline void add_convolution_sums(float* dweight, float* dbias, const Padded& shape, const float* x, const float* dy) {
    Vec sums[10] = {}, total[10] = {};
    int64_t vectors = 0;
    shape.for_each_rows([&](int64_t at, int64_t dense, int64_t rows) {
        if (rows == kConvolutionRows)
            add_row_products<kConvolutionRows>(sums, dy + dense, shape.width, x + at, shape.pitch);
        else
            for (int64_t r = 0; r < rows; ++r)
                add_row_products<1>(sums, dy + dense + r * shape.width, shape.width, x + at + r * shape.pitch,
                                    shape.pitch);
        vectors += rows * ((shape.width + kLanes - 1) / kLanes);
        if (vectors < kSumVectors) return;
        for (int t = 0; t < 10; ++t) total[t] += sums[t], sums[t] = Vec{};
        vectors = 0;
    });
    for (int t = 0; t < 9; ++t) dweight[t] += sum_of(total[t] + sums[t]);
    if (dbias) *dbias += sum_of(total[9] + sums[9]);
}

}  // namespace
