#include "averages.h"

#include <stdexcept>

#include "driver.h"

namespace kbnet {
namespace {

constexpr int64_t kBand = 16;    // rows per partial sum of a mean over the image
constexpr int64_t kCells = 8;    // cells per side of a window

// Means over whole images, separately for each image.
Grid means_of_all(const Kernels& kernels, SumsCall call, int threads) {
    const Sizes& s = call.sizes;
    call.cell_rows = kBand, call.cell_cols = s.width;
    const int64_t bands = call.grid_rows();
    std::vector<float> sums(static_cast<std::size_t>(s.batch * s.channels * bands));
    call.sums = sums.data();
    cell_sums(kernels, call, threads);
    Grid grid{allocate(s.batch * s.channels), s.batch};
    const float pixels = static_cast<float>(s.height * s.width);
    for (int64_t plane = 0; plane < s.batch * s.channels; ++plane) {
        float sum = 0.0f;
        for (int64_t band = 0; band < bands; ++band) sum += sums[static_cast<std::size_t>(plane * bands + band)];
        grid.values.get()[plane] = sum / pixels;
    }
    return grid;
}

// Means over cells, which can be smaller at the bottom and right border.
Grid means_of_cells(const Kernels& kernels, SumsCall call, int64_t cell, int threads) {
    const Sizes& s = call.sizes;
    call.cell_rows = call.cell_cols = cell;
    Grid grid{{}, s.batch, call.grid_rows(), call.grid_cols(), cell};
    grid.values = allocate(s.batch * s.channels * grid.rows * grid.cols);
    call.sums = grid.values.get();
    cell_sums(kernels, call, threads);
    float* value = grid.values.get();
    for (int64_t plane = 0; plane < s.batch * s.channels; ++plane)
        for (int64_t r = 0; r < grid.rows; ++r)
            for (int64_t c = 0; c < grid.cols; ++c)
                *value++ /= static_cast<float>(std::min(cell, s.height - r * cell) * std::min(cell, s.width - c * cell));
    return grid;
}

Grid one_cell(const std::vector<float>& values, int64_t batch) {
    Grid grid{allocate(static_cast<int64_t>(values.size())), batch};
    std::copy(values.begin(), values.end(), grid.values.get());
    return grid;
}

// to[i] = the mean of `window` numbers from[i], from[i + step], ...
void mean_of_window(float* to, const float* from, int64_t n, int64_t step, int64_t window) {
    constexpr int64_t kTogether = 16;  // in registers
    const float size = static_cast<float>(window);
    int64_t i = 0;
    for (; i + kTogether <= n; i += kTogether) {
        float sums[kTogether] = {};
        for (int64_t k = 0; k < window; ++k)
            for (int64_t j = 0; j < kTogether; ++j) sums[j] += from[i + k * step + j];
        for (int64_t j = 0; j < kTogether; ++j) to[i + j] = sums[j] / size;
    }
    for (; i < n; ++i) {
        float sum = 0.0f;
        for (int64_t k = 0; k < window; ++k) sum += from[i + k * step];
        to[i] = sum / size;
    }
}

// Means over `window` rows around each row.
void slide_rows(float* to, const float* from, int64_t rows, int64_t cols, int64_t window) {
    const int64_t before = (window - 1) / 2, centred = rows - window + 1, last = before + centred - 1;
    for (int64_t i = 0; i < centred; ++i) mean_of_window(to + (before + i) * cols, from + i * cols, cols, cols, window);
    for (int64_t row = 0; row < before; ++row) std::copy_n(to + before * cols, cols, to + row * cols);
    for (int64_t row = last + 1; row < rows; ++row) std::copy_n(to + last * cols, cols, to + row * cols);
}

// Means over `window` columns around each column.
void slide_columns(float* to, const float* from, int64_t rows, int64_t cols, int64_t window) {
    const int64_t before = (window - 1) / 2, centred = cols - window + 1, last = before + centred - 1;
    for (int64_t row = 0; row < rows; ++row, to += cols, from += cols) {
        mean_of_window(to + before, from, centred, 1, window);
        std::fill(to, to + before, to[before]);
        std::fill(to + last + 1, to + cols, to[last]);
    }
}

// A local context's window, and the side of its cells, in pixels of a level.
struct Window {
    int64_t side, cell;

    Window(int64_t window, int64_t height, int64_t input_height)
        : side(std::max<int64_t>(1, window * height / input_height)), cell(std::max<int64_t>(1, side / kCells)) {}
    bool covers(const Sizes& s) const { return side >= s.height && side >= s.width; }
};

}  // namespace

int64_t averages_floats(const Sizes& level, int64_t hidden, int64_t window, int64_t input_height) {
    const Window local(window, level.height, input_height);
    if (local.covers(level)) return level.batch * (level.channels + hidden);
    const int64_t cells = divide_up(level.height, local.cell) * divide_up(level.width, local.cell);
    return level.batch * (level.channels + hidden) * cells;
}

void sliding_mean(Grid& grid, int64_t channels, int64_t window, int threads) {
    const int64_t planes = grid.batch * channels, cells = grid.rows * grid.cols;
    const int64_t down = std::min(window, grid.rows), across = std::min(window, grid.cols);
    if (down == grid.rows && across == grid.cols) {
        std::vector<float> means(static_cast<std::size_t>(planes));
        for (int64_t p = 0; p < planes; ++p) {
            double sum = 0;
            for (int64_t i = 0; i < cells; ++i) sum += grid.values.get()[p * cells + i];
            means[static_cast<std::size_t>(p)] = static_cast<float>(sum / static_cast<double>(cells));
        }
        grid = one_cell(means, grid.batch);
        return;
    }
    const int shares = cells * planes < 1 << 14 ? 1 : static_cast<int>(std::min<int64_t>(threads, planes));
    const Floats slid = allocate(shares * cells);
    run_on_threads(shares, [&](int share) {
        float* const rows_done = slid.get() + share * cells;
        for (int64_t p = planes * share / shares; p < planes * (share + 1) / shares; ++p) {
            float* const plane = grid.values.get() + p * cells;
            slide_rows(rows_done, plane, grid.rows, grid.cols, down);
            slide_columns(plane, rows_done, grid.rows, grid.cols, across);
        }
    });
}

Grid averages(const Kernels& kernels, SumsCall sums, Context& context, std::size_t site, int64_t input_height,
              int threads) {
    Sizes& s = sums.sizes;
    if (context.kind == Context::kShared) {
        if (site >= context.means.size() || context.means[site].size() != static_cast<std::size_t>(s.channels))
            throw std::invalid_argument("the shared averages belong to another network");
        return one_cell(context.means[site], 1);
    }
    if (context.kind == Context::kLocal) {
        const Window local(context.window, s.height, input_height);
        if (!local.covers(s)) {
            Grid grid = means_of_cells(kernels, sums, local.cell, threads);
            sliding_mean(grid, s.channels, local.side / local.cell | 1, threads);  // odd, so that windows are centred
            return grid;
        }
    }
    if (context.kind != Context::kGather) return means_of_all(kernels, sums, threads);

    const int64_t halo = context.halo * s.height / input_height;
    sums.x.data = static_cast<float*>(sums.x.data) + halo * (sums.x.stride_y + sums.x.stride_x);
    s.height -= 2 * halo, s.width -= 2 * halo;
    Grid grid = means_of_all(kernels, sums, threads);
    std::vector<float> together(static_cast<std::size_t>(s.channels));
    for (int64_t c = 0; c < s.channels; ++c) {
        float sum = 0.0f;
        for (int64_t b = 0; b < s.batch; ++b) sum += grid.values.get()[b * s.channels + c];
        together[static_cast<std::size_t>(c)] = sum / static_cast<float>(s.batch);
    }
    context.means.push_back(std::move(together));
    return one_cell(context.means.back(), 1);
}

}  // namespace kbnet
