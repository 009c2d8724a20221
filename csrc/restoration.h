// An image of any size through a network: tiles that overlap and fade into each other, averages gathered for all of them,
// in the memory that is allowed. The same plan and the same numbers as kbnet/inference (restorer.py, tiles.py).
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "engine.h"

namespace kbnet {

// One tile along one axis: pixels [start, stop), and the share of each in the result.
struct Span {
    int64_t start, stop;
    std::vector<float> weights;
};

// As `plan` in inference/tiles.py. std::invalid_argument if the tile leaves no step after the overlap.
std::vector<Span> plan_spans(int64_t length, int64_t tile, int64_t overlap, int64_t multiple);

// Top-left corners (y, x) of the crops that averages are gathered from, as `sample_crops` there.
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
    // Fills `row` [channels][count] with pixels of row y, from column x on. Both lie inside the image.
    std::function<void(int64_t y, int64_t x, int64_t count, float* row)> read;
    // Takes the restored row y, [channels][width], which may lie where `read` reads: it is not read again.
    std::function<void(int64_t y, const float* row)> write;
    std::function<bool(int64_t done, int64_t total)> go_on;  // after each tile; false cancels

    int threads = 1;
    int64_t tile = 0;    // side; 0: the largest that `memory` allows; -1: the whole image
    int64_t window = 0;  // of local averages; 0: averages of the whole image
    int64_t memory = 0;  // bytes, with everything that is allocated on the way
};

void restore(const Network& network, int64_t channels, const Restoration& task);

}  // namespace kbnet
