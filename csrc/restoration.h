// Restores images of any size within a memory limit: in overlapping, blended tiles that share averages over the image.
// The plan and the constants are those of kbnet/inference (restorer.py, tiles.py).
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "engine.h"

namespace kbnet {

// One tile along one axis: pixels [start, stop), and the weight of each in the result.
struct Span {
    int64_t start, stop;
    std::vector<float> weights;
};

// The same as `plan` in inference/tiles.py. Throws std::invalid_argument if the tile isn't larger than the overlap.
std::vector<Span> plan_spans(int64_t length, int64_t tile, int64_t overlap, int64_t multiple);

// Top-left corners (y, x) of the crops whose averages the tiles share; the same as `sample_crops` there.
std::vector<std::pair<int64_t, int64_t>> sample_crops(int64_t height, int64_t width, int64_t side, int64_t halo,
                                                      int64_t pixels, int64_t multiple);

struct TooLittleMemory : std::exception {
    int64_t needed;
    explicit TooLittleMemory(int64_t needed_) : needed(needed_) {}
};

struct Cancelled : std::exception {};
struct NotFinite : std::exception {
    bool in_input;
    explicit NotFinite(bool in_input_) : in_input(in_input_) {}
};

struct Restoration {
    int64_t height, width;
    // Fills `row` [channels][count] with `count` pixels of row y, starting at column x. All are inside the image.
    std::function<void(int64_t y, int64_t x, int64_t count, float* row)> read;
    // Receives the restored row y, [channels][width]. Can overwrite the input's row y, which isn't read again.
    std::function<void(int64_t y, const float* row)> write;
    std::function<bool(int64_t done, int64_t total)> go_on;  // called after each tile; returns false to cancel

    int threads = 1;
    int64_t tile = 0;    // side; 0: as large as `memory` allows; -1: the whole image
    int64_t window = 0;  // side, for local averages; 0: averages over the whole image
    int64_t memory = 0;  // limit in bytes, for all allocations except the threads' scratch memory
};

void restore(const Network& network, int64_t channels, const Restoration& task);

}  // namespace kbnet
