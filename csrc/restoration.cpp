#include "restoration.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <stdexcept>
#include <string>

namespace kbnet {
namespace {

constexpr int64_t kPadding = 8;  // the paper's protocols pad images to a multiple of this by mirroring
constexpr int64_t kSampleMemory = int64_t{320} << 20;  // limit for the crops whose averages the tiles share
constexpr int64_t kOverlap = 64, kSampleSide = 128, kSampleHalo = 16, kLeastTile = 128, kTileStep = 64;

// Start of the last tile, and the number of tiles, if they are at most `step` apart.
std::pair<int64_t, int64_t> count_tiles(int64_t length, int64_t tile, int64_t step, int64_t multiple) {
    const int64_t last = round_up(length - tile, multiple);
    return {last, divide_up(last, step) + 1};
}

// Weights that rise from 0 to 1 over the middle quarter of the overlap, except at the borders of the image.
std::vector<float> fade(int64_t length, int64_t overlap, bool first, bool last) {
    const float margin = static_cast<float>(overlap) * 0.375f, ramp = std::max(static_cast<float>(overlap) / 4, 1.0f);
    const auto rise = [&](int64_t i) { return std::clamp((static_cast<float>(i) + 0.5f - margin) / ramp, 0.0f, 1.0f); };
    std::vector<float> weights(static_cast<std::size_t>(length));
    for (int64_t i = 0; i < length; ++i) {
        const float share = (first ? 1.0f : rise(i)) * (last ? 1.0f : rise(length - 1 - i));
        weights[static_cast<std::size_t>(i)] = std::max(share, 1e-6f);  // three tiles can overlap on a short axis
    }
    return weights;
}

// Index of the pixel that appears at `i` if an axis of `length` pixels is mirrored at its end.
int64_t mirrored(int64_t i, int64_t length) {
    const int64_t period = std::max<int64_t>(2 * (length - 1), 1);
    i %= period;
    return length > 1 ? std::min(i, period - i) : 0;
}

class Run {
public:
    Run(const Network& network, int64_t channels, const Restoration& task)
        : network_(network), task_(task), channels_(channels), height_(round_up(task.height, kPadding)),
          width_(round_up(task.width, kPadding)), side_(tile_side()), rows_(spans(height_)), cols_(spans(width_)) {
        for (const Span& row : rows_) highest_ = std::max(highest_, row.stop - row.start);
        for (const Span& col : cols_) widest_ = std::max(widest_, col.stop - col.start);
    }

    void restore() {
        Context context;
        if (task_.window > 0)
            context.kind = Context::kLocal, context.window = task_.window;
        else if (rows_.size() * cols_.size() > 1)
            gather(context);
        // Weighted sums of one row of tiles, [channels][highest_][width_]. The overlap with the next row moves up.
        const Floats band = allocate(channels_ * highest_ * width_);
        const Floats tile = allocate(2 * channels_ * highest_ * widest_);
        set_zero(band.get(), channels_ * highest_ * width_);
        int64_t done = 0;
        for (std::size_t i = 0; i < rows_.size(); ++i) {
            for (const Span& col : cols_) {
                add(rows_[i], col, context, tile.get(), band.get());
                if (!task_.go_on(++done, static_cast<int64_t>(rows_.size() * cols_.size()))) throw Cancelled();
            }
            const bool last = i + 1 == rows_.size();
            write(band.get(), rows_[i].start, last ? height_ : rows_[i + 1].start);
            if (!last) move_up(band.get(), rows_[i + 1].start - rows_[i].start, rows_[i].stop - rows_[i + 1].start);
        }
    }

private:
    std::vector<Span> spans(int64_t length) const {
        const int64_t usual = task_.window > 0 ? kOverlap + task_.window : kOverlap;
        return plan_spans(length, side_, std::min(usual, side_ / 2), network_.multiple());
    }

    // Memory in bytes with tiles of up to this side.
    int64_t bytes(int64_t side) const {
        const int64_t rows = std::min(side, height_), cols = std::min(side, width_);
        const int64_t floats = channels_ * (2 * rows * cols + rows * width_ + 2 * width_);
        return network_.bytes(1, rows, cols, task_.window) + static_cast<int64_t>(sizeof(float)) * floats;
    }

    int64_t tile_side() const {
        const int64_t whole = std::max(height_, width_), least = std::max(kLeastTile, 2 * network_.multiple());
        if (task_.tile != 0) {
            const int64_t side = task_.tile < 0 ? whole : std::max(task_.tile, network_.multiple());
            if (bytes(side) > task_.memory) throw TooLittleMemory(bytes(side));
            return side;
        }
        if (bytes(whole) <= task_.memory) return whole;
        if (bytes(least) > task_.memory) throw TooLittleMemory(bytes(least));
        int64_t fits = least, beyond = round_up(whole, kTileStep);
        while (beyond - fits > kTileStep) {
            const int64_t middle = (fits + beyond) / 2 / kTileStep * kTileStep;
            (bytes(middle) <= task_.memory ? fits : beyond) = middle;
        }
        return fits;
    }

    // Maximum number of crops of rows x cols in a batch; at least one.
    int64_t most_crops(int64_t rows, int64_t cols) const {
        const auto bytes = [&](int64_t count) {
            return network_.bytes(count, rows, cols) + static_cast<int64_t>(sizeof(float)) * 2 * count * channels_ * rows * cols;
        };
        const int64_t most = std::min(task_.memory, kSampleMemory);
        int64_t fits = 1, beyond = most / (rows * cols) + 2;  // a crop takes more than a byte per pixel
        while (beyond - fits > 1) {
            const int64_t middle = (fits + beyond) / 2;
            (bytes(middle) <= most ? fits : beyond) = middle;
        }
        return fits;
    }

    Tensor4 view(float* data, int64_t rows, int64_t cols) const {
        return {data, channels_ * rows * cols, rows * cols, cols, 1, false};
    }

    // Reads pixels [top, top + rows) x [left, left + cols) of the mirrored image, [channels][rows][cols].
    void read(int64_t top, int64_t left, int64_t rows, int64_t cols, float* to) const {
        const bool mirrors = left + cols > task_.width;
        // In narrow images, the mirrored columns can be left of this tile.
        const int64_t first = mirrors ? 0 : left, count = mirrors ? task_.width : cols;
        std::vector<float> line(static_cast<std::size_t>(channels_ * count));
        for (int64_t y = 0; y < rows; ++y) {
            task_.read(mirrored(top + y, task_.height), first, count, line.data());
            for (const float value : line)
                if (!std::isfinite(value)) throw NotFinite(true);
            for (int64_t c = 0; c < channels_; ++c)
                for (int64_t x = 0; x < cols; ++x)
                    to[(c * rows + y) * cols + x] =
                        line[static_cast<std::size_t>(c * count + mirrored(left + x, task_.width) - first)];
        }
    }

    void gather(Context& context) const {
        const int64_t multiple = network_.multiple();
        const int64_t side = std::min({kSampleSide, std::max(height_ / multiple, int64_t{1}) * multiple,
                                       std::max(width_ / multiple, int64_t{1}) * multiple});
        const int64_t halo = side == kSampleSide ? kSampleHalo : 0;
        const int64_t rows = std::min(side, height_), cols = std::min(side, width_), image = channels_ * rows * cols;
        const auto corners = sample_crops(height_, width_, side, halo, most_crops(rows, cols) * side * side, multiple);
        const int64_t count = static_cast<int64_t>(corners.size());
        const Floats crops = allocate(count * image), restored = allocate(count * image);
        for (int64_t i = 0; i < count; ++i) {
            const auto& corner = corners[static_cast<std::size_t>(i)];
            read(corner.first, corner.second, rows, cols, crops.get() + i * image);
        }
        context.kind = Context::kGather, context.halo = halo;
        network_.run(view(crops.get(), rows, cols), view(restored.get(), rows, cols), count, rows, cols, context,
                     task_.threads);
        context.kind = Context::kShared;
    }

    void add(const Span& row, const Span& col, Context& context, float* tile, float* band) const {
        const int64_t rows = row.stop - row.start, cols = col.stop - col.start;
        float* const result = tile + channels_ * rows * cols;
        read(row.start, col.start, rows, cols, tile);
        network_.run(view(tile, rows, cols), view(result, rows, cols), 1, rows, cols, context, task_.threads);
        for (int64_t c = 0; c < channels_; ++c)
            for (int64_t y = 0; y < rows; ++y) {
                const float share = row.weights[static_cast<std::size_t>(y)];
                const float* const from = result + (c * rows + y) * cols;
                float* const to = band + (c * highest_ + y) * width_ + col.start;
                for (int64_t x = 0; x < cols; ++x) {
                    if (!std::isfinite(from[x])) throw NotFinite(false);
                    to[x] += from[x] * (share * col.weights[static_cast<std::size_t>(x)]);
                }
            }
    }

    // Writes rows [from, to) of the image; `from` is the first row of the band.
    void write(const float* band, int64_t from, int64_t to) const {
        std::vector<float> line(static_cast<std::size_t>(channels_ * task_.width));
        for (int64_t y = from; y < std::min(to, task_.height); ++y) {
            for (int64_t c = 0; c < channels_; ++c)
                std::copy_n(band + (c * highest_ + y - from) * width_, task_.width, line.data() + c * task_.width);
            task_.write(y, line.data());
        }
    }

    void move_up(float* band, int64_t by, int64_t kept) const {
        for (int64_t c = 0; c < channels_; ++c) {
            float* const plane = band + c * highest_ * width_;
            std::copy_n(plane + by * width_, kept * width_, plane);  // to lower addresses
            set_zero(plane + kept * width_, (highest_ - kept) * width_);
        }
    }

    const Network& network_;
    const Restoration& task_;
    const int64_t channels_, height_, width_, side_;
    const std::vector<Span> rows_, cols_;
    int64_t highest_ = 0, widest_ = 0;
};

}  // namespace

std::vector<Span> plan_spans(int64_t length, int64_t tile, int64_t overlap, int64_t multiple) {
    if (length <= tile) return {{0, length, std::vector<float>(static_cast<std::size_t>(length), 1.0f)}};
    tile -= tile % multiple;
    const int64_t step = (tile - overlap) / multiple * multiple;
    if (step <= 0)
        throw std::invalid_argument("expected a tile of at least " + std::to_string(4 * multiple) + " pixels, got " +
                                    std::to_string(tile));
    auto [last, count] = count_tiles(length, tile, step, multiple);
    // Use the smallest tiles that need no more of them: a larger overlap is wasted work.
    while (tile - multiple > overlap + multiple) {
        const int64_t smaller = tile - multiple;
        const auto found = count_tiles(length, smaller, (smaller - overlap) / multiple * multiple, multiple);
        if (found.second != count) break;
        tile = smaller, last = found.first;
    }
    std::vector<Span> spans;
    std::vector<float> total(static_cast<std::size_t>(length));
    for (int64_t i = 0; i < count; ++i) {
        const int64_t start = last * i / (count - 1) / multiple * multiple, stop = std::min(start + tile, length);
        spans.push_back({start, stop, fade(stop - start, overlap, start == 0, stop == length)});
        for (int64_t x = start; x < stop; ++x)
            total[static_cast<std::size_t>(x)] += spans.back().weights[static_cast<std::size_t>(x - start)];
    }
    for (Span& span : spans)
        for (int64_t x = span.start; x < span.stop; ++x)
            span.weights[static_cast<std::size_t>(x - span.start)] /= total[static_cast<std::size_t>(x)];
    return spans;
}

std::vector<std::pair<int64_t, int64_t>> sample_crops(int64_t height, int64_t width, int64_t side, int64_t halo,
                                                      int64_t pixels, int64_t multiple) {
    const int64_t inner = std::max<int64_t>(side - 2 * halo, 1);
    const auto covering = [&](int64_t length) {
        return length > 2 * halo ? std::max<int64_t>(1, divide_up(length - 2 * halo, inner)) : 1;
    };
    int64_t rows = covering(height), cols = covering(width);
    if (rows * cols * side * side > pixels) {
        const int64_t count = std::max<int64_t>(1, pixels / (side * side));
        const double square = static_cast<double>(count) * static_cast<double>(height) / static_cast<double>(width);
        rows = std::max<int64_t>(1, std::min({static_cast<int64_t>(std::nearbyint(std::sqrt(square))), count, rows}));
        cols = std::max<int64_t>(1, std::min(count / rows, cols));
    }
    // Centres of `number` equal parts of the axis. Two of them can round to the same multiple.
    const auto spread = [&](int64_t length, int64_t number) {
        std::set<int64_t> starts;
        for (int64_t i = 0; i < number; ++i) {
            const double centre = static_cast<double>((2 * i + 1) * length) / static_cast<double>(2 * number);
            const double start = std::max(std::min(centre - static_cast<double>(side) / 2, static_cast<double>(length - side)), 0.0);
            starts.insert(static_cast<int64_t>(start) / multiple * multiple);
        }
        return starts;
    };
    std::vector<std::pair<int64_t, int64_t>> corners;
    for (const int64_t top : spread(height, rows))
        for (const int64_t left : spread(width, cols)) corners.emplace_back(top, left);
    return corners;
}

void restore(const Network& network, int64_t channels, const Restoration& task) { Run(network, channels, task).restore(); }

}  // namespace kbnet
