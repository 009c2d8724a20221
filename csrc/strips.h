// Converts a strip of pixels to the dense panels that register tiles work on, and back.
//
// A panel is [rows][pitch] floats, with one column per pixel of the strip, in row-major order. The neighbourhoods of
// all pixels form such a panel too (one row per tap), so the tiles never see borders, images or strides. That copy
// costs one store per tap, and each tap is then used N*G times. Writes can go up to kLanes - 1 floats past the end of a
// row; pitches leave room for that.
#pragma once

#include "problem.h"
#include "tensors.h"
#include "vec.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define KBNET_GUARD 16
#else
#define KBNET_GUARD 0
#endif

namespace {

using kbnet::Sizes;
using kbnet::Strip;

inline int64_t panel_pitch(int64_t pixels) { return round_up(pixels, 16) + 16; }

// The rows of a strip in one image.
struct Segment {
    int64_t image, y, rows;
    int64_t first;  // index of its first row in the strip
    int64_t plane;  // row of the padded planes that holds its row y - k/2
};

template <class Visit>
inline void for_each_segment(const Sizes& s, const Strip& strip, Visit visit) {
    Segment seg{};
    for (int64_t done = 0; done < strip.rows; done += seg.rows) {
        const int64_t row = strip.row0 + done;
        seg.image = row / s.height;
        seg.y = row % s.height;
        seg.rows = smaller(s.height - seg.y, strip.rows - done);
        visit(seg);
        seg.first += seg.rows;
        seg.plane += seg.rows + 2 * s.half();
    }
}

// Padded planes: for every channel of a group, the rows of all segments with k/2 rows and columns around them.
struct Planes {
    int64_t pitch;    // floats between rows
    int64_t channel;  // floats between channels

    Planes(const Sizes& s, const Strip& strip) {
        const int64_t segments = smaller(strip.rows, (strip.rows + s.height - 2) / s.height + 1);
        pitch = strip.cols + 2 * s.half();
        channel = round_up((strip.rows + segments * 2 * s.half()) * pitch, 16);
    }
    int64_t floats(int64_t channels) const { return channels * channel + 16; }
};

// The columns of the strip's neighbourhood inside the image, counted from k/2 left of the strip.
struct Inside {
    int64_t first, last;

    Inside(const Sizes& s, const Strip& strip) {
        first = s.half() - smaller(s.half(), strip.col0);
        last = s.half() + strip.cols + smaller(s.half(), s.width - strip.col0 - strip.cols);
    }
};

// panel[c][p] = tensor[channel0 + c] at the strip's pixels
inline void gather_panel(float* panel, int64_t pitch, const Tensor4& t, int64_t channel0, int64_t channels,
                         const Sizes& s, const Strip& strip) {
    for_each_segment(s, strip, [&](const Segment& seg) {
        for (int64_t r = 0; r < seg.rows; ++r)
            read_pixels(panel + (seg.first + r) * strip.cols, pitch, t,
                        t.at(seg.image, channel0, seg.y + r, strip.col0), channels, strip.cols);
    });
}

// tensor[channel0 + c] at the strip's pixels = panel[c][p]
inline void scatter_panel(const Tensor4& t, int64_t channel0, int64_t channels, const float* panel, int64_t pitch,
                          const Sizes& s, const Strip& strip) {
    for_each_segment(s, strip, [&](const Segment& seg) {
        for (int64_t r = 0; r < seg.rows; ++r)
            write_pixels(t, t.at(seg.image, channel0, seg.y + r, strip.col0),
                         panel + (seg.first + r) * strip.cols, pitch, channels, strip.cols);
    });
}

// The group's channels around the strip, with zeros outside the image.
inline void gather_planes(float* planes, const Planes& shape, const Tensor4& t, int64_t channel0, const Sizes& s,
                          const Strip& strip) {
    const Inside inside(s, strip);
    for_each_segment(s, strip, [&](const Segment& seg) {
        for (int64_t r = 0; r < seg.rows + 2 * s.half(); ++r) {
            const int64_t y = seg.y - s.half() + r;
            const bool exists = y >= 0 && y < s.height;
            const int64_t first = exists ? inside.first : shape.pitch, last = exists ? inside.last : shape.pitch;
            float* to = planes + (seg.plane + r) * shape.pitch;
            for (int64_t j = 0; j < s.group; ++j) {
                for (int64_t i = 0; i < first; ++i) to[j * shape.channel + i] = 0;
                for (int64_t i = last; i < shape.pitch; ++i) to[j * shape.channel + i] = 0;
            }
            if (exists)
                read_pixels(to + first, shape.channel, t,
                            t.at(seg.image, channel0, y, strip.col0 - s.half() + first), s.group, last - first);
        }
    });
}

// taps[(j, u, v)][p] = planes[j] at p + (u, v) - k/2
inline void unfold(float* taps, int64_t pitch, const float* planes, const Planes& shape, int64_t channels,
                   const Sizes& s, const Strip& strip) {
    float* to = taps;
    for (int64_t j = 0; j < channels; ++j)
        for (int64_t u = 0; u < s.kernel; ++u)
            for (int64_t v = 0; v < s.kernel; ++v, to += pitch)
                for_each_segment(s, strip, [&](const Segment& seg) {
                    const float* from = planes + j * shape.channel + (seg.plane + u) * shape.pitch + v;
                    float* row = to + seg.first * strip.cols;
                    for (int64_t r = 0; r < seg.rows; ++r, from += shape.pitch, row += strip.cols)
                        for (int64_t i = 0; i < strip.cols; i += kLanes) store(row + i, load(from + i));
                });
}

// The transpose of `unfold`: planes[j] at p + (u, v) - k/2 += taps[(j, u, v)][p]
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
                        add_row(to, row, strip.cols);
                });
}

inline void fill(float* to, int64_t n, float value) {
    for (int64_t i = 0; i < n; ++i) to[i] = value;
}

// Splits one allocation into blocks, each aligned to a cache line. With a null base it only adds up sizes. With the
// address sanitizer, a poisoned cache line follows every block.
struct Arena {
    float* base;
    int64_t used = 0;

    float* take(int64_t floats) {
        const int64_t at = used;
        used += round_up(floats, 16) + KBNET_GUARD;
        if (!base) return nullptr;
#if KBNET_GUARD
        __asan_unpoison_memory_region(base + at, (used - at) * sizeof(float));
        __asan_poison_memory_region(base + at + floats, (used - at - floats) * sizeof(float));
#endif
        return base + at;
    }
};

}  // namespace
