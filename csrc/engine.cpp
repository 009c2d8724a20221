#include "engine.h"

#include <atomic>
#include <cstring>
#include <numeric>

#include "averages.h"
#include "driver.h"

namespace kbnet {
namespace {

struct Block {
    int64_t channels;
    FusionCall fusion{};
    FeedForwardCall feed{};
    EdgeCall mix{};  // of the channel branch
};

using Stage = std::vector<Block>;

// The largest even divisor of the channels up to the limit, like coefficient_width in kbnet/description.py.
int64_t head_width(int64_t channels, int64_t limit) {
    for (int64_t width = std::min(channels, limit); width > 1; --width)
        if (channels % width == 0 && width % 2 == 0) return width;
    return 0;
}

// Memory layout of an image at one level: planar, with gaps so that neither the channels of a pixel nor the pixels
// above it map to the same few cache sets, as they would with sides that are powers of two.
struct Layout {
    int64_t channels, rows, cols, pitch, plane;

    Layout(int64_t channels_, int64_t rows_, int64_t cols_) : channels(channels_), rows(rows_), cols(cols_) {
        pitch = cols % kPage == 0 || kPage % cols == 0 ? cols + kLine : cols;
        plane = round_up(rows * pitch, kPage) + kPlaneGap;
    }
    int64_t floats() const { return channels * plane; }  // per image
    Tensor4 view(float* data) const { return {data, floats(), plane, pitch, 1, false}; }

private:
    static constexpr int64_t kLine = 16, kPage = 1024, kPlaneGap = 5 * kLine;  // floats
};

}  // namespace

struct Network::Parts {
    Settings settings;
    const Kernels& kernels;
    EdgeCall first{}, last{};
    std::vector<EdgeCall> down, up;
    std::vector<Stage> encoder, decoder;
    Stage middle;

    Parts(const Settings& s, const Kernels& k) : settings(s), kernels(k) {}

    int64_t levels() const { return static_cast<int64_t>(encoder.size()); }

    EdgeCall layer(Source& source, const std::string& name, Edge kind, int64_t channels, int64_t outputs) const {
        EdgeCall call{};
        call.kind = kind, call.channels = channels, call.out_channels = outputs;
        const int64_t area = kind == Edge::kSame ? 9 : 4;  // kUp: four output pixels per input pixel
        call.weight = source.find(name + ".weight", outputs * channels * area);
        if (kind != Edge::kUp) call.bias = source.find(name + ".bias", outputs);
        return call;
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
        made.mix.kind = Edge::kMix, made.mix.channels = made.mix.out_channels = c;
        made.mix.weight = find(".channel_branch.mix.weight", c * c);
        made.mix.bias = find(".channel_branch.mix.bias", c);
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

// Runs the tiles of a layer on all threads. Packs the weights every time, which is cheap, so that changes in place take
// effect.
void run_layer(const Kernels& kernels, EdgeCall call, int threads) {
    const Floats packed = allocate(kernels.edge_packed(call));
    kernels.edge_pack(call, packed.get());
    call.packed = packed.get();
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

// Mixes averages [batch][C][rows][cols] by a block's channel branch.
std::vector<float> mixed(const Kernels& kernels, const EdgeCall& mix, Grid& grid, int threads) {
    std::vector<float> out(grid.values.size());
    EdgeCall call = mix;
    call.batch = grid.batch, call.height = grid.rows, call.width = grid.cols;
    const int64_t cells = grid.rows * grid.cols;
    call.x = {grid.values.data(), call.channels * cells, cells, grid.cols, 1, false};
    call.y = {out.data(), call.channels * cells, cells, grid.cols, 1, false};
    run_layer(kernels, call, threads);
    return out;
}

// State of a run: the current image, and free memory.
class Run {
public:
    Run(const Kernels& kernels, Context& context, int64_t batch, int64_t height, int threads)
        : kernels_(kernels), context_(context), batch_(batch), input_height_(height), threads_(threads) {}

    // The image is in `here`; `spare` has the same size.
    void stage(const Stage& blocks, float*& here, float*& spare, const Layout& layout) {
        for (const Block& block : blocks) {
            const Tensor4 x = layout.view(here), y = layout.view(spare);
            FusionCall fused = block.fusion;
            fused.sizes.batch = batch_, fused.sizes.height = layout.rows, fused.sizes.width = layout.cols;
            fused.x = x, fused.y = y;
            SumsCall sums{fused.sizes, fused.eps, x, fused.norm_weight, fused.norm_bias, nullptr, 0, 0};
            Grid grid = averages(kernels_, sums, context_, site_++, input_height_, threads_);
            const std::vector<float> means = mixed(kernels_, block.mix, grid, threads_);
            fused.means = means.data(), fused.means_batch = grid.batch;
            fused.grid_rows = grid.rows, fused.grid_cols = grid.cols, fused.cell = grid.cell;
            fusion(kernels_, fused, threads_);
            FeedForwardCall feed = block.feed;
            feed.sizes = fused.sizes, feed.x = feed.y = y;
            feed_forward(kernels_, feed, threads_);
            std::swap(here, spare);
        }
    }

    void layer(EdgeCall call, const Tensor4& x, const Tensor4& y, const Tensor4& added, int64_t height,
               int64_t width) {
        call.batch = batch_, call.height = height, call.width = width;
        call.x = x, call.y = y, call.added = added;
        run_layer(kernels_, call, threads_);
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

// Places of the images of all levels: two slots per level, with all deeper levels in the unused one.
struct Network::Memory {
    struct Level {
        Layout layout;
        int64_t here, spare;  // offsets in floats
    };
    std::vector<Level> levels;
    int64_t floats;

    // `least`: minimum size in floats of the first level's slots; one of them receives the result.
    Memory(int64_t count, int64_t width, int64_t batch, int64_t rows, int64_t cols, int64_t least) {
        for (int64_t i = 0; i <= count; ++i) levels.push_back({Layout(width << i, rows >> i, cols >> i), 0, 0});
        std::vector<int64_t> slots(levels.size());
        int64_t deeper = 0;
        for (std::size_t i = levels.size(); i-- > 0;) {
            slots[i] = std::max({batch * levels[i].layout.floats(), deeper, i == 0 ? least : 0});
            deeper = 2 * slots[i];
        }
        int64_t at = 0;
        for (std::size_t i = 0; i < levels.size(); ++i) {
            levels[i].here = at;
            at = levels[i].spare = at + slots[i];
        }
        floats = deeper + 16;  // the last vectors are read in full
    }
};

int64_t Network::bytes(int64_t batch, int64_t height, int64_t width) const {
    const int64_t rows = round_up(height, multiple()), cols = round_up(width, multiple());
    const int64_t input = batch * Layout(parts_->settings.channels, rows, cols).floats();
    const Memory memory(parts_->levels(), parts_->settings.width, batch, rows, cols, input);
    return static_cast<int64_t>(sizeof(float)) * (memory.floats + input);
}

namespace {

// Copies an image, or a part of it, into another one.
void copy(const Tensor4& from, const Tensor4& to, int64_t batch, int64_t channels, int64_t rows, int64_t cols) {
    for (int64_t b = 0; b < batch; ++b)
        for (int64_t c = 0; c < channels; ++c)
            for (int64_t r = 0; r < rows; ++r)
                std::memcpy(static_cast<float*>(to.data) + to.at(b, c, r, 0),
                            static_cast<const float*>(from.data) + from.at(b, c, r, 0),
                            static_cast<std::size_t>(cols) * sizeof(float));
}

}  // namespace

void Network::run(const Tensor4& x, const Tensor4& y, int64_t batch, int64_t height, int64_t width, Context& context,
                  int threads) const {
    if (batch * height * width == 0) return;
    const Parts& p = *parts_;
    const int64_t rows = round_up(height, multiple()), cols = round_up(width, multiple());
    const int64_t channels = p.settings.channels;
    if (context.kind == Context::kGather) context.means.clear();

    // The zero-padded input, which the last layer adds to its output.
    const Layout outer(channels, rows, cols);
    const Floats input = allocate(batch * outer.floats());
    set_zero(input.get(), batch * outer.floats());
    const Tensor4 padded = outer.view(input.get());
    copy(x, padded, batch, channels, height, width);

    Run run(p.kernels, context, batch, rows, threads);
    const Memory plan(p.levels(), p.settings.width, batch, rows, cols, batch * outer.floats());
    const Floats memory = allocate(plan.floats);
    struct Images {
        float *here, *spare;
    };
    std::vector<Images> images;
    for (const Memory::Level& level : plan.levels)
        images.push_back({memory.get() + level.here, memory.get() + level.spare});
    const auto layout = [&](std::size_t i) -> const Layout& { return plan.levels[i].layout; };

    run.layer(p.first, padded, layout(0).view(images[0].here), Tensor4{}, rows, cols);
    for (std::size_t i = 0; i < p.encoder.size(); ++i) {
        const float* const before = images[i].spare;
        run.stage(p.encoder[i], images[i].here, images[i].spare, layout(i));
        // Deeper levels are in the unused slot, whichever of the two that is.
        const int64_t moved = images[i].spare - before;
        for (std::size_t deeper = i + 1; deeper < images.size(); ++deeper)
            images[deeper].here += moved, images[deeper].spare += moved;
        run.layer(p.down[i], layout(i).view(images[i].here), layout(i + 1).view(images[i + 1].here), Tensor4{},
                  layout(i + 1).rows, layout(i + 1).cols);
    }
    run.stage(p.middle, images.back().here, images.back().spare, plan.levels.back().layout);
    for (std::size_t i = 0; i < p.decoder.size(); ++i) {
        const std::size_t level = p.decoder.size() - 1 - i;
        const Tensor4 skip = layout(level).view(images[level].here);
        run.layer(p.up[i], layout(level + 1).view(images[level + 1].here), skip, skip, layout(level + 1).rows,
                  layout(level + 1).cols);
        run.stage(p.decoder[i], images[level].here, images[level].spare, layout(level));
    }
    const Tensor4 result = layout(0).view(images[0].here);
    if (rows == height && cols == width) return run.layer(p.last, result, y, padded, rows, cols);
    const Tensor4 whole = outer.view(images[0].spare);
    run.layer(p.last, result, whole, padded, rows, cols);
    copy(whole, y, batch, channels, height, width);
}

}  // namespace kbnet
