// Shared by the drivers: memory, splitting images into strips and tiles, and packing weights.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "pool.h"
#include "problem.h"

namespace kbnet {

// Memory of one call, from a small store of reusable blocks (memory.cpp): getting new pages from the system can take
// longer than the call itself.
struct GiveBack {
    std::size_t bytes;
    void operator()(float* p) const;
};
using Floats = std::unique_ptr<float[], GiveBack>;

Floats allocate(int64_t floats);

// Pages of a file that are mapped to be read only.
struct FilePages {
    const void* data = nullptr;
    std::size_t bytes = 0;

    // Takes them out of the process's memory; the next access brings them back.
    void release() const;
};

inline void set_zero(float* p, int64_t floats) { std::memset(p, 0, static_cast<std::size_t>(floats) * sizeof(float)); }

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

// Splits rows [begin, end) into nearly equal strips of about `pixels` pixels each.
struct Cut {
    int64_t begin, end, width;
    int64_t rows, cols, across, down;

    Cut(int64_t begin_, int64_t end_, int64_t width_, int64_t pixels) : begin(begin_), end(end_), width(width_) {
        across = width <= 96 ? 1 : divide_up(width, 64);
        cols = divide_up(width, across);
        across = divide_up(width, cols);
        down = divide_up(end - begin, std::max<int64_t>(1, pixels / cols));
        rows = divide_up(end - begin, down);
        down = divide_up(end - begin, rows);
    }
    int64_t count() const { return across * down; }
    Strip largest() const { return {begin, rows, 0, cols}; }
    Strip strip(int64_t i) const {
        const int64_t row0 = begin + i / across * rows, col0 = i % across * cols;
        return {row0, std::min(rows, end - row0), col0, std::min(cols, width - col0)};
    }
};

// Pixels per tile: enough that its border costs little, while its panels stay in the cache.
constexpr int64_t kTilePixels = 512, kTileCols = 64, kTileAlign = 16;

// Splits images into tiles of about equal size.
struct Tiles {
    int64_t height, width, rows, cols, down, across, count;

    Tiles(const Sizes& s, int threads) : height(s.height), width(s.width) {
        cols = width;
        if (width > kTileCols + kTileCols / 2)
            cols = round_up(divide_up(width, divide_up(width, kTileCols)), kTileAlign);
        across = divide_up(width, cols);
        rows = std::clamp<int64_t>(kTilePixels / round_up(cols, kTileAlign), 1, height);
        // If there are few tiles, make them smaller, so that every thread has work.
        while (s.batch * across * divide_up(height, rows) < threads && rows > 4) rows = divide_up(rows, 2);
        down = divide_up(height, rows);
        rows = divide_up(height, down);
        down = divide_up(height, rows);
        count = s.batch * down * across;
    }
    Tile largest() const { return {0, 0, rows, 0, cols}; }
    Tile tile(int64_t i) const {
        const int64_t row0 = i / across % down * rows, col0 = i % across * cols;
        return {i / (across * down), row0, std::min(rows, height - row0), col0, std::min(cols, width - col0)};
    }
};

// Calls pack(group, where) for all groups, split over the threads.
template <class Pack>
Floats pack_groups(int64_t groups, int64_t floats_each, int threads, Pack pack) {
    Floats packed = allocate(groups * floats_each);
    const int64_t total = groups * floats_each;
    const int shares = total < 1 << 15 ? 1 : static_cast<int>(std::min<int64_t>(threads, groups));
    run_on_threads(shares, [&](int i) {
        for (int64_t g = groups * i / shares; g < groups * (i + 1) / shares; ++g)
            pack(g, packed.get() + g * floats_each);
    });
    return packed;
}

}  // namespace kbnet
