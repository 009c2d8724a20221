// The matrix unit of Intel's processors (AMX): eight tiles of up to 16 rows x 64 bytes, and products of bfloat16 pairs.
//
// One product adds a 16 x 32 matrix times a 32 x 16 matrix to a tile of 16 x 16 float32 sums. Its right operand holds
// rows 2i and 2i + 1 side by side in each lane, which is how panels are paired (dense.h).
//
// In assembly, because GCC 12's intrinsics don't tell the compiler which memory they access. With
// KBNET_EMULATED_MATRIX_UNIT, tiles are arrays, so that everything but these instructions is tested on any processor.
#pragma once

#include <cstdlib>
#include <cstring>

#include "vec.h"

namespace {

#if defined(KBNET_MATRIX_UNIT) || defined(KBNET_EMULATED_MATRIX_UNIT)
constexpr bool kHaveMatrixUnit = true;
constexpr int kTileRows = 16;   // most rows of a tile
constexpr int kTilePairs = 16;  // most lanes of a row

// The operand of the instruction that sets the tiles' sizes. A tile that isn't used has neither rows nor bytes.
struct TileSizes {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes[16] = {};  // of a row
    uint8_t rows[16] = {};

    void set(int tile, int64_t rows_, int64_t lanes) {
        rows[tile] = static_cast<uint8_t>(rows_);
        bytes[tile] = static_cast<uint16_t>(4 * lanes);
    }
};
static_assert(sizeof(TileSizes) == 64);

#if defined(KBNET_MATRIX_UNIT)
inline void set_tile_sizes(const TileSizes& sizes) { __asm__ volatile("ldtilecfg %0" : : "m"(sizes)); }
inline void release_tiles() { __asm__ volatile("tilerelease"); }

template <int T>
inline void load_tile(const float* from, int64_t pitch) {
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(4 * pitch), "i"(T) : "memory");
}

template <int T>
inline void store_tile(float* to, int64_t pitch) {
    __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(4 * pitch), "i"(T) : "memory");
}

template <int T>
inline void clear_tile() {
    __asm__ volatile("tilezero %%tmm%c0" : : "i"(T));
}

// sums += left * right
template <int Sums, int Left, int Right>
inline void add_tile_product() {
    __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sums), "i"(Left), "i"(Right));
}
#else
struct EmulatedTiles {
    TileSizes sizes;
    bool usable = false;
    alignas(64) float lanes[8][kTileRows][kTilePairs];
};
thread_local EmulatedTiles emulated;

inline void fault_unless(bool allowed) {
    if (!allowed) std::abort();  // the processor raises an exception
}

inline void set_tile_sizes(const TileSizes& sizes) {
    fault_unless(sizes.palette == 1 && sizes.start_row == 0);
    for (int t = 0; t < 16; ++t) {
        fault_unless(t < 8 || sizes.rows[t] == 0);
        fault_unless(sizes.rows[t] <= kTileRows && sizes.bytes[t] <= 64 && (sizes.rows[t] == 0) == (sizes.bytes[t] == 0));
    }
    emulated.sizes = sizes, emulated.usable = true;
    std::memset(emulated.lanes, 0, sizeof emulated.lanes);
}
inline void release_tiles() { emulated.usable = false; }

template <int T>
inline void load_tile(const float* from, int64_t pitch) {
    const int rows = emulated.sizes.rows[T], bytes = emulated.sizes.bytes[T];
    fault_unless(emulated.usable && rows > 0);
    std::memset(emulated.lanes[T], 0, sizeof emulated.lanes[T]);
    for (int r = 0; r < rows; ++r) std::memcpy(emulated.lanes[T][r], from + r * pitch, static_cast<std::size_t>(bytes));
}

template <int T>
inline void store_tile(float* to, int64_t pitch) {
    const int rows = emulated.sizes.rows[T], bytes = emulated.sizes.bytes[T];
    fault_unless(emulated.usable && rows > 0);
    for (int r = 0; r < rows; ++r) std::memcpy(to + r * pitch, emulated.lanes[T][r], static_cast<std::size_t>(bytes));
}

template <int T>
inline void clear_tile() {
    fault_unless(emulated.usable && emulated.sizes.rows[T] > 0);
    std::memset(emulated.lanes[T], 0, sizeof emulated.lanes[T]);
}

template <int Sums, int Left, int Right>
inline void add_tile_product() {
    static_assert(Sums != Left && Sums != Right && Left != Right, "not an instruction");
    const TileSizes& s = emulated.sizes;
    fault_unless(emulated.usable && s.rows[Sums] == s.rows[Left] && s.bytes[Sums] == s.bytes[Right] &&
                 s.bytes[Left] == 4 * s.rows[Right] && s.rows[Right] > 0);
    const auto low = [](float pair) {
        uint32_t bits;
        std::memcpy(&bits, &pair, 4);
        bits <<= 16;
        std::memcpy(&pair, &bits, 4);
        return pair;
    };
    const auto high = [](float pair) {
        uint32_t bits;
        std::memcpy(&bits, &pair, 4);
        bits &= 0xffff0000u;
        std::memcpy(&pair, &bits, 4);
        return pair;
    };
    // As the processor does it: sums of the low and of the high products, which are added to the tile at the end.
    for (int r = 0; r < s.rows[Sums]; ++r)
        for (int p = 0; p < s.bytes[Sums] / 4; ++p) {
            float lows = 0.0f, highs = 0.0f;
            for (int i = 0; i < s.rows[Right]; ++i) {
                lows += low(emulated.lanes[Left][r][i]) * low(emulated.lanes[Right][i][p]);
                highs += high(emulated.lanes[Left][r][i]) * high(emulated.lanes[Right][i][p]);
            }
            emulated.lanes[Sums][r][p] += lows + highs;
        }
}
#endif

// Tiles in use by this thread. Others, such as oneDNN, use them too: they are given back at the end of each piece of
// work.
class MatrixUnit {
public:
    MatrixUnit() = default;
    MatrixUnit(const MatrixUnit&) = delete;
    MatrixUnit& operator=(const MatrixUnit&) = delete;
    ~MatrixUnit() {
        if (in_use) release_tiles();
        in_use = false;
    }

    // Sets the tiles' sizes, which clears all tiles. Does nothing if they already have these sizes.
    static void use(const TileSizes& sizes) {
        if (in_use && std::memcmp(&sizes, &current, sizeof sizes) == 0) return;
        set_tile_sizes(sizes);
        current = sizes, in_use = true;
    }

private:
    static inline thread_local bool in_use = false;
    static inline thread_local TileSizes current;
};
#else
constexpr bool kHaveMatrixUnit = false;

struct MatrixUnit {
    MatrixUnit() {}  // so that a variable of it isn't unused
};
#endif

}  // namespace
