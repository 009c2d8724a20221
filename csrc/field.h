// A rectangle of pixels, with the border that the following convolutions need, as planar panels.
//
// A panel of a field is [channels][floats], with consecutive rows of `pitch` floats. A neighbour of a pixel is
// therefore at a constant offset, and every convolution is a sum of shifted panels. Panels of results have no border
// and are dense: the j-th vector of pixels is at j * kLanes.
#pragma once

#include "problem.h"
#include "strips.h"

namespace {

using kbnet::channel_pitch;
using kbnet::Tile;

// Number of vectors of pixels processed together; see product_block in dense.h.
constexpr int kColumns = kRegisters == 32 ? 4 : 2;
constexpr int kRows = 4;  // rows of a register tile

// Offsets of vectors of pixels in a panel. Padded to a multiple of kColumns by repeating the last one.
struct Vectors {
    int32_t* at;
    int64_t count;

    static int64_t room(int64_t rows, int64_t pitch) { return rows * (pitch / kLanes + 2) + kColumns; }
};

struct Field {
    int64_t rows, cols;  // pixels of the tile
    int64_t border;
    int64_t pitch, floats;
    // The part inside the image, as rows and columns of the panel.
    int64_t first_row, last_row, first_col, last_col;

    Field(const Tile& tile, int64_t border_, int64_t height, int64_t width)
        : rows(tile.rows), cols(tile.cols), border(border_) {
        pitch = cols + 2 * border;
        // A vector can start at the last pixel, and kernels reach further from there.
        floats = channel_pitch((rows + 2 * border) * pitch + kLanes + border * (pitch + 1));
        first_row = larger(0, border - tile.row0);
        last_row = smaller(rows + 2 * border, height - tile.row0 + border);
        first_col = larger(0, border - tile.col0);
        last_col = smaller(pitch, width - tile.col0 + border);
    }

    int64_t vectors_across() const { return (cols + kLanes - 1) / kLanes; }
    int64_t dense() const { return channel_pitch(round_up(rows * vectors_across(), kColumns) * kLanes); }  // floats per channel

    // The pixels of the tile, row by row: offsets in a panel of the field of the j-th vector of a dense panel.
    Vectors tile_vectors(int32_t* at) const {
        Vectors v{at, 0};
        for (int64_t r = 0; r < rows; ++r)
            for (int64_t c = 0; c < cols; c += kLanes)
                at[v.count++] = static_cast<int32_t>((r + border) * pitch + border + c);
        return padded(v);
    }

    // All pixels inside the image at a distance of at most `reach` from the tile.
    Vectors inside_vectors(int32_t* at, int64_t reach) const {
        const int64_t r0 = larger(first_row, border - reach), r1 = smaller(last_row, border + rows + reach);
        const int64_t c0 = larger(first_col, border - reach), c1 = smaller(last_col, border + cols + reach);
        Vectors v{at, 0};
        const int64_t by_rows = (r1 - r0) * ((c1 - c0 + kLanes - 1) / kLanes);
        const int64_t begin = r0 * pitch + c0, end = (r1 - 1) * pitch + c1;
        if (by_rows <= (end - begin + kLanes - 1) / kLanes)
            for (int64_t r = r0; r < r1; ++r)
                for (int64_t c = c0; c < c1; c += kLanes) at[v.count++] = static_cast<int32_t>(r * pitch + c);
        else
            for (int64_t p = begin; p < end; p += kLanes) at[v.count++] = static_cast<int32_t>(p);
        return padded(v);
    }

    static Vectors padded(Vectors v) {
        while (v.count % kColumns) v.at[v.count] = v.at[v.count - 1], ++v.count;
        return v;
    }

    // Zeros outside the image, which are the padding of the convolutions.
    void zero_outside(float* panel, int64_t channels) const {
        const int64_t all = rows + 2 * border;
        for (int64_t c = 0; c < channels; ++c, panel += floats) {
            fill(panel, first_row * pitch, 0.0f);
            fill(panel + last_row * pitch, floats - last_row * pitch, 0.0f);
            if (first_col == 0 && last_col == pitch) continue;
            for (int64_t r = first_row; r < smaller(last_row, all); ++r) {
                fill(panel + r * pitch, first_col, 0.0f);
                fill(panel + r * pitch + last_col, pitch - last_col, 0.0f);
            }
        }
    }
};

// panel = the tensor's pixels of the field, zeros outside the image
inline void gather_field(float* panel, const Field& f, const Tensor4& t, int64_t channel0, int64_t channels,
                         const Tile& tile) {
    for (int64_t r = f.first_row; r < f.last_row; ++r)
        read_pixels(panel + r * f.pitch + f.first_col, f.floats, t,
                    t.at(tile.image, channel0, tile.row0 - f.border + r, tile.col0 - f.border + f.first_col), channels,
                    f.last_col - f.first_col);
    f.zero_outside(panel, channels);
}

// Dense panels of the tile's own pixels, with `row` floats per row of pixels and `pitch` floats per channel.
inline void gather_dense(float* panel, int64_t pitch, int64_t row, const Tensor4& t, int64_t channel0,
                         int64_t channels, const Tile& tile) {
    for (int64_t r = 0; r < tile.rows; ++r)
        read_pixels(panel + r * row, pitch, t, t.at(tile.image, channel0, tile.row0 + r, tile.col0), channels,
                    tile.cols);
}

inline void scatter_dense(const Tensor4& t, const float* panel, int64_t pitch, int64_t row, int64_t channel0,
                          int64_t channels, const Tile& tile) {
    for (int64_t r = 0; r < tile.rows; ++r)
        write_pixels(t, t.at(tile.image, channel0, tile.row0 + r, tile.col0), panel + r * row, pitch, channels,
                     tile.cols);
}

}  // namespace
