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
    Grid grid{std::vector<float>(static_cast<std::size_t>(s.batch * s.channels)), s.batch};
    const float pixels = static_cast<float>(s.height * s.width);
    for (std::size_t i = 0; i < grid.values.size(); ++i) {
        float sum = 0.0f;
        for (int64_t band = 0; band < bands; ++band) sum += sums[i * static_cast<std::size_t>(bands) + static_cast<std::size_t>(band)];
        grid.values[i] = sum / pixels;
    }
    return grid;
}

// Means over cells, which can be smaller at the bottom and right border.
Grid means_of_cells(const Kernels& kernels, SumsCall call, int64_t cell, int threads) {
    const Sizes& s = call.sizes;
    call.cell_rows = call.cell_cols = cell;
    Grid grid{{}, s.batch, call.grid_rows(), call.grid_cols(), cell};
    grid.values.resize(static_cast<std::size_t>(s.batch * s.channels * grid.rows * grid.cols));
    call.sums = grid.values.data();
    cell_sums(kernels, call, threads);
    float* value = grid.values.data();
    for (int64_t plane = 0; plane < s.batch * s.channels; ++plane)
        for (int64_t r = 0; r < grid.rows; ++r)
            for (int64_t c = 0; c < grid.cols; ++c)
                *value++ /= static_cast<float>(std::min(cell, s.height - r * cell) * std::min(cell, s.width - c * cell));
    return grid;
}

// Replaces every row of `plane` with the mean of the `window` rows around it, or every number along an axis of stride
// 1. In float64, because long sums lose precision. `total` has room for length + 1 rows.
void slide(float* plane, int64_t length, int64_t each, int64_t window, double* total) {
    for (int64_t i = 0; i < each; ++i) total[i] = 0;
    for (int64_t row = 0; row < length; ++row)
        for (int64_t i = 0; i < each; ++i) total[(row + 1) * each + i] = total[row * each + i] + plane[row * each + i];
    for (int64_t row = 0; row < length; ++row) {
        const int64_t start = std::clamp<int64_t>(row - (window - 1) / 2, 0, length - window);
        const double *low = total + start * each, *high = total + (start + window) * each;
        for (int64_t i = 0; i < each; ++i)
            plane[row * each + i] = static_cast<float>((high[i] - low[i]) / static_cast<double>(window));
    }
}

}  // namespace

void sliding_mean(Grid& grid, int64_t channels, int64_t window, int threads) {
    const int64_t planes = grid.batch * channels, cells = grid.rows * grid.cols;
    const int64_t down = std::min(window, grid.rows), across = std::min(window, grid.cols);
    if (down == grid.rows && across == grid.cols) {
        std::vector<float> means(static_cast<std::size_t>(planes));
        for (int64_t p = 0; p < planes; ++p) {
            double sum = 0;
            for (int64_t i = 0; i < cells; ++i) sum += grid.values[static_cast<std::size_t>(p * cells + i)];
            means[static_cast<std::size_t>(p)] = static_cast<float>(sum / static_cast<double>(cells));
        }
        grid = Grid{std::move(means), grid.batch};
        return;
    }
    const int shares = cells * planes < 1 << 14 ? 1 : static_cast<int>(std::min<int64_t>(threads, planes));
    const std::size_t room = static_cast<std::size_t>(std::max((grid.rows + 1) * grid.cols, grid.cols + 1));
    std::vector<double> totals(static_cast<std::size_t>(shares) * room);
    run_on_threads(shares, [&](int share) {
        double* const total = totals.data() + static_cast<std::size_t>(share) * room;
        for (int64_t p = planes * share / shares; p < planes * (share + 1) / shares; ++p) {
            float* const plane = grid.values.data() + p * cells;
            slide(plane, grid.rows, grid.cols, down, total);
            for (int64_t r = 0; r < grid.rows; ++r) slide(plane + r * grid.cols, grid.cols, 1, across, total);
        }
    });
}

Grid averages(const Kernels& kernels, SumsCall sums, Context& context, std::size_t site, int64_t input_height,
              int threads) {
    Sizes& s = sums.sizes;
    if (context.kind == Context::kShared) {
        if (site >= context.means.size() || context.means[site].size() != static_cast<std::size_t>(s.channels))
            throw std::invalid_argument("the shared averages belong to another network");
        return Grid{context.means[site], 1};
    }
    if (context.kind == Context::kLocal) {
        const int64_t window = std::max<int64_t>(1, context.window * s.height / input_height);
        if (window < s.height || window < s.width) {
            const int64_t cell = std::max<int64_t>(1, window / kCells);
            Grid grid = means_of_cells(kernels, sums, cell, threads);
            sliding_mean(grid, s.channels, window / cell | 1, threads);  // odd, so that windows are centred
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
        for (int64_t b = 0; b < s.batch; ++b) sum += grid.values[static_cast<std::size_t>(b * s.channels + c)];
        together[static_cast<std::size_t>(c)] = sum / static_cast<float>(s.batch);
    }
    context.means.push_back(together);
    return Grid{std::move(together), 1};
}

}  // namespace kbnet
