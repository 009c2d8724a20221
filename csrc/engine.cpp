#include "engine.h"

#include <atomic>
#include <cstring>
#include <numeric>

#include "averages.h"
#include "driver.h"

namespace kbnet {
namespace {

// A convolution with its packed weights.
struct Layer {
    EdgeCall call{};
    std::vector<float> packed;
};

struct Block {
    int64_t channels;
    FusionCall fusion{};
    FeedForwardCall feed{};
    std::vector<float> mix, mix_bias;  // of the channel branch, [C, C] and [C]
};

using Stage = std::vector<Block>;

std::vector<float> numbers(const Matrix& m, int64_t n) {
    std::vector<float> out(static_cast<std::size_t>(n));
    for (int64_t i = 0; i < n; ++i) {
        if (!m.bfloat16) {
            out[static_cast<std::size_t>(i)] = static_cast<const float*>(m.data)[i];
            continue;
        }
        const uint32_t bits = static_cast<uint32_t>(static_cast<const uint16_t*>(m.data)[i]) << 16;
        std::memcpy(&out[static_cast<std::size_t>(i)], &bits, 4);
    }
    return out;
}

// The largest even divisor of the channels that is not over the limit, as kbnet/nn/layers.py has it.
int64_t head_width(int64_t channels, int64_t limit) {
    for (int64_t width = std::min(channels, limit); width > 1; --width)
        if (channels % width == 0 && width % 2 == 0) return width;
    return 0;
}

Tensor4 planar(float* data, int64_t channels, int64_t height, int64_t width) {
    return {data, channels * height * width, height * width, width, 1, false};
}

}  // namespace

struct Network::Parts {
    Settings settings;
    const Kernels& kernels;
    Layer first, last;
    std::vector<Layer> down, up;
    std::vector<Stage> encoder, decoder;
    Stage middle;

    Parts(const Settings& s, const Kernels& k) : settings(s), kernels(k) {}

    int64_t levels() const { return static_cast<int64_t>(encoder.size()); }

    Layer layer(Source& source, const std::string& name, Edge kind, int64_t channels, int64_t outputs) const {
        Layer made;
        EdgeCall& call = made.call;
        call.kind = kind, call.channels = channels, call.out_channels = outputs;
        const int64_t area = kind == Edge::kSame ? 9 : 4;  // kUp: the four pixels that one becomes
        call.weight = source.find(name + ".weight", outputs * channels * area);
        if (kind != Edge::kUp) call.bias = source.find(name + ".bias", outputs);
        made.packed.resize(static_cast<std::size_t>(kernels.edge_packed(call)));
        kernels.edge_pack(call, made.packed.data());
        return made;
    }

    Block block(Source& source, const std::string& name, int64_t c) const {
        const Settings& s = settings;
        const auto find = [&](const char* part, int64_t values) { return source.find(name + part, values); };
        const int64_t head = head_width(c, s.head_limit), hidden = static_cast<int64_t>(s.ffn_scale * static_cast<double>(c)) / 2;
        const int64_t kernel = s.lightweight ? 3 : 5, group = s.lightweight ? 1 : 4;
        Block made{};
        made.channels = c;
        FusionCall& f = made.fusion;
        f.sizes.channels = c, f.sizes.bases = s.bases, f.sizes.group = s.group, f.sizes.kernel = s.kernel;
        f.hidden = c, f.head = head, f.static_group = group, f.static_kernel = kernel, f.eps = s.eps;
        f.norm_weight = find(".fusion_norm.weight", c), f.norm_bias = find(".fusion_norm.bias", c);
        made.mix = numbers(find(".channel_branch.mix.weight", c * c), c * c);
        made.mix_bias = numbers(find(".channel_branch.mix.bias", c), c);
        f.static_in = find(".static_branch.0.weight", c * c), f.static_in_bias = find(".static_branch.0.bias", c);
        f.static_conv = find(".static_branch.1.weight", c * group * kernel * kernel);
        f.static_conv_bias = find(".static_branch.1.bias", c);
        f.adaptive_in = find(".adaptive_in.0.weight", c * c), f.adaptive_in_bias = find(".adaptive_in.0.bias", c);
        f.adaptive_conv = find(".adaptive_in.1.weight", c * 9), f.adaptive_conv_bias = find(".adaptive_in.1.bias", c);
        f.head_conv = find(".coefficients.grouped.weight", c * 9);
        f.head_conv_bias = find(".coefficients.grouped.bias", head);
        f.expand = find(".coefficients.expand.weight", s.bases * (head / 2));
        f.expand_bias = find(".coefficients.expand.bias", s.bases);
        f.projection = find(".coefficients.projection.weight", s.bases * c);
        f.projection_bias = find(".coefficients.projection.bias", s.bases);
        f.coefficient_scale = find(".coefficients.scale", s.bases);
        f.bases = find(".kba.weight", s.bases * c * f.sizes.taps()), f.bases_bias = find(".kba.bias", s.bases * c);
        f.kba_scale = find(".kba_scale", c);
        f.out = find(".fusion_out.weight", c * c), f.out_bias = find(".fusion_out.bias", c);
        f.out_scale = find(".fusion_scale", c);
        FeedForwardCall& n = made.feed;
        n.sizes = f.sizes, n.hidden = hidden, n.eps = s.eps;
        n.norm_weight = find(".ffn_norm.weight", c), n.norm_bias = find(".ffn_norm.bias", c);
        n.in = find(".ffn_in.weight", 2 * hidden * c), n.in_bias = find(".ffn_in.bias", 2 * hidden);
        n.out = find(".ffn_out.weight", c * hidden), n.out_bias = find(".ffn_out.bias", c);
        n.out_scale = find(".ffn_scale", c);
        return made;
    }

    Stage stage(Source& source, const std::string& name, int64_t channels, int64_t count) const {
        Stage made;
        for (int64_t i = 0; i < count; ++i) made.push_back(block(source, name + "." + std::to_string(i), channels));
        return made;
    }
};

namespace {

// Runs tiles of a layer on all threads.
void run_layer(const Kernels& kernels, EdgeCall call, const std::vector<float>& packed, int threads) {
    call.packed = packed.data();
    Sizes sizes{call.batch, call.channels, call.height, call.width, 0, 1, 1};
    const Tiles tiles(sizes, threads);
    threads = static_cast<int>(std::min<int64_t>(threads, tiles.count));
    const int64_t floats = kernels.edge_scratch(call, tiles.largest());
    const Floats scratch = allocate(threads * floats);
    std::atomic<int64_t> next{0};
    run_on_threads(threads, [&](int thread) {
        for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < tiles.count;)
            kernels.edge_tile(call, tiles.tile(i), scratch.get() + thread * floats);
    });
}

// [batch][C][rows][cols] mixed by a block's channel branch
std::vector<float> mixed(const Block& block, const Grid& grid) {
    const int64_t c = block.channels, cells = grid.rows * grid.cols;
    std::vector<float> out(grid.values.size());
    for (int64_t b = 0; b < grid.batch; ++b)
        for (int64_t d = 0; d < c; ++d) {
            float* const to = out.data() + (b * c + d) * cells;
            std::fill(to, to + cells, block.mix_bias[static_cast<std::size_t>(d)]);
            for (int64_t j = 0; j < c; ++j) {
                const float w = block.mix[static_cast<std::size_t>(d * c + j)];
                const float* from = grid.values.data() + (b * c + j) * cells;
                for (int64_t i = 0; i < cells; ++i) to[i] += w * from[i];
            }
        }
    return out;
}

// One run: the image at hand, and the memory that is free.
class Run {
public:
    Run(const Kernels& kernels, Context& context, int64_t batch, int64_t height, int threads)
        : kernels_(kernels), context_(context), batch_(batch), input_height_(height), threads_(threads) {}

    // The image is in `here`; `spare` has as many floats.
    void stage(const Stage& blocks, float*& here, float*& spare, int64_t height, int64_t width) {
        for (const Block& block : blocks) {
            const Tensor4 x = planar(here, block.channels, height, width), y = planar(spare, block.channels, height, width);
            FusionCall fused = block.fusion;
            fused.sizes.batch = batch_, fused.sizes.height = height, fused.sizes.width = width;
            fused.x = x, fused.y = y;
            SumsCall sums{fused.sizes, fused.eps, x, fused.norm_weight, fused.norm_bias, nullptr, 0, 0};
            const Grid grid = averages(kernels_, sums, context_, site_++, input_height_, threads_);
            const std::vector<float> means = mixed(block, grid);
            fused.means = means.data(), fused.means_batch = grid.batch;
            fused.grid_rows = grid.rows, fused.grid_cols = grid.cols, fused.cell = grid.cell;
            fusion(kernels_, fused, threads_);
            FeedForwardCall feed = block.feed;
            feed.sizes = fused.sizes, feed.x = feed.y = y;
            feed_forward(kernels_, feed, threads_);
            std::swap(here, spare);
        }
    }

    void layer(const Layer& layer, const Tensor4& x, const Tensor4& y, const Tensor4& added, int64_t height,
               int64_t width) {
        EdgeCall call = layer.call;
        call.batch = batch_, call.height = height, call.width = width;
        call.x = x, call.y = y, call.added = added;
        run_layer(kernels_, call, layer.packed, threads_);
    }

private:
    const Kernels& kernels_;
    Context& context_;
    int64_t batch_, input_height_;
    int threads_;
    std::size_t site_ = 0;
};

}  // namespace

Network::Network(const Settings& s, Source& source, const Kernels& kernels) : parts_(new Parts(s, kernels)) {
    Parts& p = *parts_;
    int64_t width = s.width;
    p.first = p.layer(source, "first", Edge::kSame, s.channels, width);
    for (std::size_t i = 0; i < s.encoder_blocks.size(); ++i) {
        const std::string level = std::to_string(i);
        p.encoder.push_back(p.stage(source, "encoder." + level, width, s.encoder_blocks[i]));
        p.down.push_back(p.layer(source, "downsample." + level, Edge::kDown, width, 2 * width));
        width *= 2;
    }
    p.middle = p.stage(source, "middle", width, s.middle_blocks);
    for (std::size_t i = 0; i < s.decoder_blocks.size(); ++i) {
        const std::string level = std::to_string(i);
        width /= 2;
        p.up.push_back(p.layer(source, "upsample." + level + ".0", Edge::kUp, 2 * width, width));
        p.decoder.push_back(p.stage(source, "decoder." + level, width, s.decoder_blocks[i]));
    }
    p.last = p.layer(source, "last", Edge::kSame, width, s.channels);
}

Network::~Network() = default;

const Kernels& Network::kernels() const { return parts_->kernels; }

int64_t Network::multiple() const { return int64_t{1} << parts_->levels(); }

int64_t Network::bytes(int64_t batch, int64_t height, int64_t width) const {
    const int64_t pixels = batch * round_up(height, multiple()) * round_up(width, multiple());
    return static_cast<int64_t>(sizeof(float)) * pixels * (2 * parts_->settings.width + parts_->settings.channels);
}

void Network::run(const Tensor4& x, const Tensor4& y, int64_t batch, int64_t height, int64_t width, Context& context,
                  int threads) const {
    if (batch * height * width == 0) return;
    const Parts& p = *parts_;
    const int64_t rows = round_up(height, multiple()), cols = round_up(width, multiple()), channels = p.settings.channels;
    if (context.kind == Context::kGather) context.means.clear();

    // The input with its padding of zeros, in rows of its own: the last layer adds it too.
    const Floats input = allocate(batch * channels * rows * cols);
    set_zero(input.get(), batch * channels * rows * cols);
    const Tensor4 padded = planar(input.get(), channels, rows, cols);
    for (int64_t b = 0; b < batch; ++b)
        for (int64_t c = 0; c < channels; ++c)
            for (int64_t r = 0; r < height; ++r)
                std::memcpy(input.get() + padded.at(b, c, r, 0), static_cast<const float*>(x.data) + x.at(b, c, r, 0),
                            static_cast<std::size_t>(width) * sizeof(float));

    Run run(p.kernels, context, batch, rows, threads);
    const int64_t floats = batch * p.settings.width * rows * cols;
    const Floats memory = allocate(2 * floats);
    // Of each level: the image, and as much again, into which both images of the next level fit.
    struct Level {
        float *here, *spare;
        int64_t channels, rows, cols;
    };
    std::vector<Level> levels{{memory.get(), memory.get() + floats, p.settings.width, rows, cols}};
    run.layer(p.first, padded, planar(levels[0].here, p.settings.width, rows, cols), Tensor4{}, rows, cols);
    for (std::size_t i = 0; i < p.encoder.size(); ++i) {
        Level& level = levels[i];
        run.stage(p.encoder[i], level.here, level.spare, level.rows, level.cols);
        Level next{level.spare, nullptr, 2 * level.channels, level.rows / 2, level.cols / 2};
        next.spare = next.here + batch * next.channels * next.rows * next.cols;
        run.layer(p.down[i], planar(level.here, level.channels, level.rows, level.cols),
                  planar(next.here, next.channels, next.rows, next.cols), Tensor4{}, next.rows, next.cols);
        levels.push_back(next);
    }
    run.stage(p.middle, levels.back().here, levels.back().spare, levels.back().rows, levels.back().cols);
    for (std::size_t i = 0; i < p.decoder.size(); ++i) {
        const Level from = levels.back();
        levels.pop_back();
        Level& level = levels.back();
        const Tensor4 skip = planar(level.here, level.channels, level.rows, level.cols);
        run.layer(p.up[i], planar(from.here, from.channels, from.rows, from.cols), skip, skip, from.rows, from.cols);
        run.stage(p.decoder[i], level.here, level.spare, level.rows, level.cols);
    }
    Level& level = levels[0];
    if (rows == height && cols == width) {
        run.layer(p.last, planar(level.here, level.channels, rows, cols), y, padded, rows, cols);
        return;
    }
    const Tensor4 whole = planar(level.spare, channels, rows, cols);
    run.layer(p.last, planar(level.here, level.channels, rows, cols), whole, padded, rows, cols);
    for (int64_t b = 0; b < batch; ++b)
        for (int64_t c = 0; c < channels; ++c)
            for (int64_t r = 0; r < height; ++r)
                std::memcpy(static_cast<float*>(y.data) + y.at(b, c, r, 0), level.spare + whole.at(b, c, r, 0),
                            static_cast<std::size_t>(width) * sizeof(float));
}

}  // namespace kbnet
