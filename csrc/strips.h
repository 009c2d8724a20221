// Moving pixels between tensors (any strides) and the dense panels the tiles work on.
//
// A panel is [rows][pitch] floats, one column a pixel of the strip, pixels in row-major order. The neighbourhood of
// every pixel is laid out as such a panel too (one row a tap), so the tiles never see borders, images or strides.
// Panels may be written up to kLanes - 1 floats past a row's end: pitches leave room for it.
#pragma once

#include <cstring>

#include "problem.h"
#include "vec.h"

namespace {

using kbnet::Sizes;
using kbnet::Strip;
using kbnet::Tensor4;

inline int64_t panel_pitch(int64_t pixels) { return round_up(pixels, 16) + 16; }

// The rows of a strip that lie in one image.
struct Segment {
    int64_t image, y, rows;
    int64_t first;  // index in the strip of its first row
    int64_t plane;  // row in the padded planes of its row y - k/2
};

template <class Visit>
inline void for_each_segment(const Sizes& s, const Strip& strip, Visit visit) {
    const int64_t halo = 2 * (s.kernel / 2);
    Segment seg{};
    for (int64_t done = 0; done < strip.rows; done += seg.rows) {
        const int64_t row = strip.row0 + done;
        seg.image = row / s.height;
        seg.y = row % s.height;
        seg.rows = smaller(s.height - seg.y, strip.rows - done);
        visit(seg);
        seg.first += seg.rows;
        seg.plane += seg.rows + halo;
    }
}

// Padded planes: for every channel of a group, every segment's rows with k/2 rows and columns around them.
struct Planes {
    int64_t pitch;    // floats between rows
    int64_t channel;  // floats between channels

    Planes(const Sizes& s, const Strip& strip) {
        const int64_t halo = 2 * (s.kernel / 2);
        const int64_t segments = smaller(strip.rows, (strip.rows + s.height - 2) / s.height + 1);
        pitch = strip.cols + halo;
        channel = round_up((strip.rows + segments * halo) * pitch, 16);
    }
    int64_t floats(const Sizes& s) const { return s.group * channel + 16; }
};

inline void copy_row(float* to, const float* from, int64_t step, int64_t n) {
    if (step == 1) {
        std::memcpy(to, from, n * sizeof(float));
    } else {
        for (int64_t i = 0; i < n; ++i) to[i] = from[i * step];
    }
}

inline void write_row(float* to, int64_t step, const float* from, int64_t n) {
    if (step == 1) {
        std::memcpy(to, from, n * sizeof(float));
    } else {
        for (int64_t i = 0; i < n; ++i) to[i * step] = from[i];
    }
}

inline void add_row(float* to, int64_t step, const float* from, int64_t n) {
    if (step == 1) {
        int64_t i = 0;
        for (; i + kLanes <= n; i += kLanes) store(to + i, load(to + i) + load(from + i));
        for (; i < n; ++i) to[i] += from[i];
    } else {
        for (int64_t i = 0; i < n; ++i) to[i * step] += from[i];
    }
}

// panel[c][p] = tensor[channel0 + c] at the strip's pixels
inline void gather_panel(float* panel, int64_t pitch, const Tensor4& t, int64_t channel0, int64_t channels,
                         const Sizes& s, const Strip& strip) {
    for_each_segment(s, strip, [&](const Segment& seg) {
        for (int64_t r = 0; r < seg.rows; ++r) {
            const float* from = t.data + seg.image * t.stride_b + channel0 * t.stride_c +
                                (seg.y + r) * t.stride_y + strip.col0 * t.stride_x;
            float* to = panel + (seg.first + r) * strip.cols;
            for (int64_t c = 0; c < channels; ++c)
                copy_row(to + c * pitch, from + c * t.stride_c, t.stride_x, strip.cols);
        }
    });
}

// tensor[channel0 + c] at the strip's pixels = panel[c][p]
inline void scatter_panel(const Tensor4& t, int64_t channel0, int64_t channels, const float* panel, int64_t pitch,
                          const Sizes& s, const Strip& strip) {
    for_each_segment(s, strip, [&](const Segment& seg) {
        for (int64_t r = 0; r < seg.rows; ++r) {
            float* to = t.data + seg.image * t.stride_b + channel0 * t.stride_c + (seg.y + r) * t.stride_y +
                        strip.col0 * t.stride_x;
            const float* from = panel + (seg.first + r) * strip.cols;
            for (int64_t c = 0; c < channels; ++c)
                write_row(to + c * t.stride_c, t.stride_x, from + c * pitch, strip.cols);
        }
    });
}

// The group's channels around the strip, with zeros outside the image.
inline void gather_planes(float* planes, const Planes& shape, const Tensor4& t, int64_t channel0, const Sizes& s,
                          const Strip& strip) {
    const int64_t half = s.kernel / 2;
    const int64_t left = smaller(half, strip.col0);  // columns that exist left and right of the strip
    const int64_t right = smaller(half, s.width - strip.col0 - strip.cols);
    const int64_t first = half - left, last = half + strip.cols + right;
    for_each_segment(s, strip, [&](const Segment& seg) {
        for (int64_t r = 0; r < seg.rows + 2 * half; ++r) {
            const int64_t y = seg.y - half + r;
            float* to = planes + (seg.plane + r) * shape.pitch;
            for (int64_t j = 0; j < s.group; ++j, to += shape.channel) {
                if (y < 0 || y >= s.height) {
                    for (int64_t i = 0; i < shape.pitch; ++i) to[i] = 0;
                    continue;
                }
                for (int64_t i = 0; i < first; ++i) to[i] = 0;
                for (int64_t i = last; i < shape.pitch; ++i) to[i] = 0;
                copy_row(to + first,
                         t.data + seg.image * t.stride_b + (channel0 + j) * t.stride_c + y * t.stride_y +
                             (strip.col0 - left) * t.stride_x,
                         t.stride_x, last - first);
            }
        }
    });
}

// taps[(j, u, v)][p] = planes[j] at p + (u, v) - k/2; one row of ones after them, the bias's tap
inline void unfold(float* taps, int64_t pitch, const float* planes, const Planes& shape, const Sizes& s,
                   const Strip& strip) {
    float* to = taps;
    for (int64_t j = 0; j < s.group; ++j)
        for (int64_t u = 0; u < s.kernel; ++u)
            for (int64_t v = 0; v < s.kernel; ++v, to += pitch)
                for_each_segment(s, strip, [&](const Segment& seg) {
                    const float* from = planes + j * shape.channel + (seg.plane + u) * shape.pitch + v;
                    for (int64_t r = 0; r < seg.rows; ++r, from += shape.pitch) {
                        float* row = to + (seg.first + r) * strip.cols;
                        for (int64_t i = 0; i < strip.cols; i += kLanes) store(row + i, load(from + i));
                    }
                });
    for (int64_t p = 0; p < strip.pixels(); p += kLanes) store(to + p, Vec{} + 1.0f);
}

// The transpose of `unfold`: planes += taps moved back to where they were read.
inline void fold(float* planes, const Planes& shape, const float* taps, int64_t pitch, const Sizes& s,
                 const Strip& strip) {
    const float* from = taps;
    for (int64_t j = 0; j < s.group; ++j)
        for (int64_t u = 0; u < s.kernel; ++u)
            for (int64_t v = 0; v < s.kernel; ++v, from += pitch)
                for_each_segment(s, strip, [&](const Segment& seg) {
                    float* to = planes + j * shape.channel + (seg.plane + u) * shape.pitch + v;
                    const float* row = from + seg.first * strip.cols;
                    for (int64_t r = 0; r < seg.rows; ++r, to += shape.pitch, row += strip.cols)
                        add_row(to, 1, row, strip.cols);
                });
}

}  // namespace
