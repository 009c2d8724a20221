#include "layers.h"

#include <atomic>
#include <cstring>

#include "averages.h"
#include "driver.h"
#include "transposed.h"

namespace kbnet {
namespace {

// The largest even divisor of the channels up to the limit, like coefficient_width in kbnet/description.py.
int64_t head_width(int64_t channels, int64_t limit) {
    for (int64_t width = std::min(channels, limit); width > 1; --width)
        if (channels % width == 0 && width % 2 == 0) return width;
    return 0;
}

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

// Mixes averages [batch][C][rows][cols] by a block's channel branch, to [batch][D][rows][cols].
Floats mixed(const Kernels& kernels, const EdgeCall& mix, const Grid& grid, int threads) {
    const int64_t cells = grid.rows * grid.cols;
    Floats out = allocate(grid.batch * mix.out_channels * cells);
    EdgeCall call = mix;
    call.batch = grid.batch, call.height = grid.rows, call.width = grid.cols;
    call.x = {grid.values.get(), call.channels * cells, cells, grid.cols, 1, false};
    call.y = {out.get(), call.out_channels * cells, cells, grid.cols, 1, false};
    run_layer(kernels, call, threads);
    return out;
}

}  // namespace

EdgeCall Parts::layer(const std::string& name, Edge kind, int64_t channels, int64_t outputs, bool bias) const {
    EdgeCall call{};
    call.kind = kind, call.channels = channels, call.out_channels = outputs;
    int64_t area = 1, convolved = outputs;
    if (kind == Edge::kSame || kind == Edge::kUnshuffle || kind == Edge::kShuffle) area = 9;
    if (kind == Edge::kDown) area = 4;
    if (kind == Edge::kUp || kind == Edge::kShuffle) convolved = 4 * outputs;
    if (kind == Edge::kUnshuffle) convolved = outputs / 4;
    call.weight = find(name + ".weight", convolved * channels * area);
    call.bias = find(name + ".bias", convolved, bias);
    return call;
}

// The parameters that both blocks have under the same names.
Block Parts::fusion(const std::string& name, int64_t c, int64_t hidden, bool bias) const {
    const Settings& s = settings_;
    const int64_t head = head_width(c, s.head_limit);
    Block made{};
    made.channels = c;
    FusionCall& f = made.fusion;
    f.sizes.channels = c, f.sizes.bases = s.bases, f.sizes.group = s.group, f.sizes.kernel = s.kernel;
    f.hidden = hidden, f.head = head, f.eps = s.eps, f.paired = s.paired;
    made.mix = layer(name + ".channel_branch.mix", Edge::kMix, c, hidden, true);
    f.static_in = find(name + ".static_branch.0.weight", hidden * c);
    f.static_in_bias = find(name + ".static_branch.0.bias", hidden, bias);
    f.adaptive_in = find(name + ".adaptive_in.0.weight", hidden * c);
    f.adaptive_in_bias = find(name + ".adaptive_in.0.bias", hidden, bias);
    f.adaptive_conv = find(name + ".adaptive_in.1.weight", hidden * 9);
    f.adaptive_conv_bias = find(name + ".adaptive_in.1.bias", hidden, bias);
    f.head_conv = find(name + ".coefficients.grouped.weight", c * 9);
    f.head_conv_bias = find(name + ".coefficients.grouped.bias", head);
    f.expand = find(name + ".coefficients.expand.weight", s.bases * (head / 2));
    f.expand_bias = find(name + ".coefficients.expand.bias", s.bases);
    f.projection = find(name + ".coefficients.projection.weight", s.bases * c);
    f.projection_bias = find(name + ".coefficients.projection.bias", s.bases);
    f.coefficient_scale = find(name + ".coefficients.scale", s.bases);
    f.bases = find(name + ".kba.weight", s.bases * hidden * f.sizes.taps());
    f.bases_bias = find(name + ".kba.bias", s.bases * hidden);
    f.kba_scale = find(name + ".kba_scale", hidden);
    return made;
}

Block Parts::block_s(const std::string& name, int64_t c) const {
    const Settings& s = settings_;
    const int64_t kernel = s.lightweight ? 3 : 5, group = s.lightweight ? 1 : 4;
    const int64_t hidden = static_cast<int64_t>(s.ffn_scale * static_cast<double>(c)) / 2;
    Block made = fusion(name, c, c, true);
    FusionCall& f = made.fusion;
    f.static_group = group, f.static_kernel = kernel;
    f.norm_weight = find(name + ".fusion_norm.weight", c), f.norm_bias = find(name + ".fusion_norm.bias", c);
    f.static_conv = find(name + ".static_branch.1.weight", c * group * kernel * kernel);
    f.static_conv_bias = find(name + ".static_branch.1.bias", c);
    f.out = find(name + ".fusion_out.weight", c * c), f.out_bias = find(name + ".fusion_out.bias", c);
    f.out_scale = find(name + ".fusion_scale", c);
    FeedForwardCall& n = made.feed;
    n.sizes = f.sizes, n.hidden = hidden, n.eps = s.eps, n.paired = s.paired;
    n.norm_weight = find(name + ".ffn_norm.weight", c), n.norm_bias = find(name + ".ffn_norm.bias", c);
    n.in = find(name + ".ffn_in.weight", 2 * hidden * c), n.in_bias = find(name + ".ffn_in.bias", 2 * hidden);
    n.out = find(name + ".ffn_out.weight", c * hidden), n.out_bias = find(name + ".ffn_out.bias", c);
    n.out_scale = find(name + ".ffn_scale", c);
    return made;
}

Block Parts::block_l(const std::string& name, int64_t c, int64_t heads) const {
    const Settings& s = settings_;
    const std::string inner = name + ".fusion", outer = name + ".attention";
    const int64_t hidden = static_cast<int64_t>(static_cast<double>(c) * s.expansion);
    Block made = fusion(inner, c, hidden, s.bias);
    FusionCall& f = made.fusion;
    f.static_group = 1, f.static_kernel = 3, f.gelu = true;
    f.norm_weight = find(name + ".fusion_norm.weight", c), f.norm_bias = find(name + ".fusion_norm.bias", c);
    f.static_conv = find(inner + ".static_branch.1.weight", hidden * 9);
    f.static_conv_bias = find(inner + ".static_branch.1.bias", hidden, s.bias);
    f.out = find(inner + ".out.weight", c * hidden), f.out_bias = find(inner + ".out.bias", c, s.bias);
    AttentionCall& a = made.attention;
    a.sizes = f.sizes, a.heads = heads, a.eps = s.eps, a.paired = s.paired;
    a.norm_weight = find(name + ".attention_norm.weight", c), a.norm_bias = find(name + ".attention_norm.bias", c);
    made.temperature = find(outer + ".temperature", heads);
    a.qkv = find(outer + ".qkv.weight", 3 * c * c), a.qkv_bias = find(outer + ".qkv.bias", 3 * c, s.bias);
    a.conv = find(outer + ".qkv_depthwise.weight", 3 * c * 9);
    a.conv_bias = find(outer + ".qkv_depthwise.bias", 3 * c, s.bias);
    a.out = find(outer + ".out.weight", c * c), a.out_bias = find(outer + ".out.bias", c, s.bias);
    return made;
}

void Run::layer(EdgeCall call, const Tensor4& x, const Tensor4& y, const Tensor4& added, int64_t height,
                int64_t width) const {
    call.batch = batch_, call.height = height, call.width = width;
    call.x = x, call.y = y, call.added = added;
    run_layer(kernels_, call, threads_);
    file_.release();
}

void Run::block(const Block& block, const Tensor4& x, const Tensor4& y, int64_t rows, int64_t cols) {
    FusionCall fused = block.fusion;
    fused.sizes.batch = batch_, fused.sizes.height = rows, fused.sizes.width = cols;
    fused.x = x, fused.y = y;
    SumsCall sums{fused.sizes, fused.eps, x, fused.norm_weight, fused.norm_bias, nullptr, 0, 0};
    const Grid grid = averages(kernels_, sums, context_, site_++, input_height_, threads_);
    const Floats means = mixed(kernels_, block.mix, grid, threads_);
    fused.means = means.get(), fused.means_batch = grid.batch;
    fused.grid_rows = grid.rows, fused.grid_cols = grid.cols, fused.cell = grid.cell;
    FeedForwardCall feed = block.feed;
    feed.sizes = fused.sizes, feed.x = feed.y = y;
    kbnet::block(kernels_, fused, feed, threads_);
    file_.release();
}

void Run::attention(const Block& block, const Tensor4& x, const Tensor4& y, int64_t rows, int64_t cols) {
    AttentionCall call = block.attention;
    call.sizes.batch = batch_, call.sizes.height = rows, call.sizes.width = cols;
    call.x = x, call.y = y;
    transposed_attention(kernels_, call, block.temperature, context_, site_, input_height_, threads_);
    file_.release();
    site_ += 3;
}

void copy(const Tensor4& from, const Tensor4& to, int64_t batch, int64_t channels, int64_t rows, int64_t cols) {
    for (int64_t b = 0; b < batch; ++b)
        for (int64_t c = 0; c < channels; ++c)
            for (int64_t r = 0; r < rows; ++r)
                std::memcpy(static_cast<float*>(to.data) + to.at(b, c, r, 0),
                            static_cast<const float*>(from.data) + from.at(b, c, r, 0),
                            static_cast<std::size_t>(cols) * sizeof(float));
}

PaddedInput::PaddedInput(const Tensor4& x, int64_t batch, int64_t channels, int64_t height, int64_t width, int64_t multiple)
    : layout(channels, round_up(height, multiple), round_up(width, multiple)), memory(allocate(batch * layout.floats())),
      view(layout.view(memory.get())) {
    set_zero(memory.get(), batch * layout.floats());
    copy(x, view, batch, channels, height, width);
}

}  // namespace kbnet
