// What KBNet-S and KBNet-L are made of: images in memory, the layers outside the blocks, and stages of blocks.
#pragma once

#include <string>
#include <vector>

#include "engine.h"
#include "work.h"

namespace kbnet {

// A network of one family; see engine.h.
class Form {
public:
    virtual ~Form() = default;
    virtual void run(const Tensor4& x, const Tensor4& y, int64_t batch, int64_t height, int64_t width, Context& context,
                     int threads, const FilePages& file) const = 0;
    virtual int64_t multiple() const = 0;
    virtual int64_t bytes(int64_t batch, int64_t height, int64_t width, int64_t window) const = 0;
};

std::unique_ptr<Form> make_kbnet_s(const Settings& settings, Source& source, const Kernels& kernels);
std::unique_ptr<Form> make_kbnet_l(const Settings& settings, Source& source, const Kernels& kernels);

// Memory layout of an image at one level: planar, with gaps so that neither the channels of a pixel nor, in wide images,
// the pixels above it map to the same few cache sets.
struct Layout {
    int64_t channels, rows, cols, pitch, plane;

    Layout(int64_t channels_, int64_t rows_, int64_t cols_) : channels(channels_), rows(rows_), cols(cols_) {
        pitch = cols % kPage == 0 ? cols + kLine : cols;
        plane = channel_pitch(rows * pitch);
    }
    int64_t floats() const { return channels * plane; }  // per image
    // The image from its channel `first` on.
    Tensor4 view(float* data, int64_t first = 0) const { return {data + first * plane, floats(), plane, pitch, 1, false}; }

private:
    static constexpr int64_t kLine = 16, kPage = 1024;  // floats
};

struct Block {
    int64_t channels;
    FusionCall fusion{};
    EdgeCall mix{};             // of the channel branch
    FeedForwardCall feed{};     // of KBNet-S
    AttentionCall attention{};  // of KBNet-L: the parameters; out is the layer's weight
    Matrix temperature{};       // of KBNet-L, [heads]
};

using Stage = std::vector<Block>;

// Finds the parameters of the layers of a network.
class Parts {
public:
    Parts(const Settings& settings, Source& source) : settings_(settings), source_(source) {}

    EdgeCall layer(const std::string& name, Edge kind, int64_t channels, int64_t outputs, bool bias) const;
    Block block_s(const std::string& name, int64_t channels) const;
    Block block_l(const std::string& name, int64_t channels, int64_t heads) const;

private:
    Block fusion(const std::string& name, int64_t channels, int64_t hidden, bool bias) const;
    Matrix find(const std::string& name, int64_t values, bool wanted = true) const {
        return wanted ? source_.find(name, values) : Matrix{};
    }

    const Settings& settings_;
    Source& source_;
};

// A run of a network on one batch.
class Run {
public:
    // `file`: pages with the weights, released after each layer
    Run(const Kernels& kernels, Context& context, int64_t batch, int64_t height, int threads, const FilePages& file)
        : kernels_(kernels), context_(context), file_(file), batch_(batch), input_height_(height), threads_(threads) {}

    // Runs a layer; `height` and `width` are those of the image that is split into tiles (problem.h).
    void layer(EdgeCall call, const Tensor4& x, const Tensor4& y, const Tensor4& added, int64_t height, int64_t width) const;

    // KBNet-S's block, or the fusion half of KBNet-L's, x -> y.
    void block(const Block& block, const Tensor4& x, const Tensor4& y, int64_t rows, int64_t cols);
    // The attention of KBNet-L's block, x -> y.
    void attention(const Block& block, const Tensor4& x, const Tensor4& y, int64_t rows, int64_t cols);

private:
    const Kernels& kernels_;
    Context& context_;
    FilePages file_;
    int64_t batch_, input_height_;
    int threads_;
    std::size_t site_ = 0;
};

// Copies images of contiguous rows.
void copy(const Tensor4& from, const Tensor4& to, int64_t batch, int64_t channels, int64_t rows, int64_t cols);

// The image, padded at the right and bottom with zeros to a multiple: these take part in norms and averages, as in the
// modules. The last layer adds it to its output.
struct PaddedInput {
    Layout layout;
    Floats memory;
    Tensor4 view;

    PaddedInput(const Tensor4& x, int64_t batch, int64_t channels, int64_t height, int64_t width, int64_t multiple);
};

}  // namespace kbnet
