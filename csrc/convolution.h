// 3x3 convolutions of single channels of dense planar panels, with their gradients.
//
// A channel of a strip of whole images is copied into a plane with a border of zeros around every image; that costs a
// store a pixel, and each is then read nine times or more.
#pragma once

#include "planar.h"

namespace {

struct Padded {
    int64_t images, height, width, pitch, each, length, lead;

    Padded(int64_t images_, int64_t height_, int64_t width_) : images(images_), height(height_), width(width_) {
        pitch = width + 2;
        each = (height + 2) * pitch;
        length = images * each;
        lead = round_up(pitch + 1, 16);  // a border's neighbours are read too
    }
    int64_t floats() const { return lead + length + pitch + 1 + kLanes; }

    // Visits every row: its first pixel in the padded plane and in a dense one.
    template <class Visit>
    void for_each_row(Visit visit) const {
        int64_t dense = 0;
        for (int64_t i = 0; i < images; ++i)
            for (int64_t r = 0; r < height; ++r, dense += width) visit(lead + i * each + (r + 1) * pitch + 1, dense);
    }
    // The borders of `plane` are zero already.
    void pad(float* plane, const float* channel) const {
        for_each_row([&](int64_t at, int64_t dense) {
            int64_t x = 0;
            for (; x + kLanes <= width; x += kLanes) store(plane + at + x, load(channel + dense + x));
            for (; x < width; ++x) plane[at + x] = channel[dense + x];
        });
    }
};

// channel = or += the convolution of the padded plane with nine weights; mirrored for the gradient
template <bool kAdd>
inline void convolve_channel(float* channel, const Padded& shape, const float* plane, const float* weight, float bias,
                             bool mirrored) {
    float w[9];
    int64_t offsets[9];
    for (int t = 0; t < 9; ++t) {
        w[t] = weight[mirrored ? 8 - t : t];
        offsets[t] = (t / 3 - 1) * shape.pitch + t % 3 - 1;
    }
    const auto at_pixel = [&](const float* from) {
        Vec sum = Vec{} + bias;
        for (int t = 0; t < 9; ++t) sum += load(from + offsets[t]) * w[t];
        return sum;
    };
    shape.for_each_row([&](int64_t at, int64_t dense) {
        int64_t x = 0;
        for (; x + kLanes <= shape.width; x += kLanes) {
            float* to = channel + dense + x;
            const Vec sum = at_pixel(plane + at + x);
            store(to, kAdd ? load(to) + sum : sum);
        }
        if (x == shape.width) return;
        float rest[kLanes];
        store(rest, at_pixel(plane + at + x));
        for (int64_t i = 0; x + i < shape.width; ++i)
            channel[dense + x + i] = kAdd ? channel[dense + x + i] + rest[i] : rest[i];
    });
}

// dweight[t] += sum over pixels of dy times x at the tap; dbias += sum of dy; both planes padded
inline void add_convolution_sums(float* dweight, float* dbias, const Padded& shape, const float* x, const float* dy) {
    for (int64_t begin = 0; begin < shape.length; begin += kSumVectors * kLanes) {
        Vec sums[10] = {};
        const int64_t end = smaller(shape.length, begin + kSumVectors * kLanes);
        for (int64_t p = shape.lead + begin; p < shape.lead + end; p += kLanes) {
            const Vec d = load(dy + p);
            for (int t = 0; t < 9; ++t) sums[t] += d * load(x + p + (t / 3 - 1) * shape.pitch + t % 3 - 1);
            sums[9] += d;
        }
        for (int t = 0; t < 9; ++t) dweight[t] += sum_of(sums[t]);
        if (dbias) *dbias += sum_of(sums[9]);
    }
}

}  // namespace
