#include <algorithm>
#include <memory>

#include "averages.h"
#include "layers.h"

namespace kbnet {
namespace {

constexpr std::size_t kLevels = 4;

// KBNet-L, whose skip connections are concatenated. Each level has an image of twice its channels: the decoder's half
// first, then the encoder's, which is the skip connection. Blocks need a second image; that is the unused half, but at
// the first level, whose decoder keeps both halves. All deeper levels fit in that level's second image until then.
class Large final : public Form {
public:
    Large(const Settings& settings, Source& source, const Kernels& kernels) : settings_(settings), kernels_(kernels) {
        const Parts parts(settings, source);
        const auto stage = [&](const std::string& name, int64_t channels, int64_t count, int64_t heads) {
            Stage made;
            for (int64_t i = 0; i < count; ++i)
                made.push_back(parts.block_l(name + "." + std::to_string(i), channels, heads));
            return made;
        };
        const int64_t width = settings.width;
        first_ = parts.layer("first", Edge::kSame, settings.channels, width, false);
        for (std::size_t i = 0; i + 1 < kLevels; ++i) {
            const std::string level = std::to_string(i);
            encoder_.push_back(stage("encoder." + level, width << i, settings.blocks[i], settings.heads[i]));
            down_.push_back(parts.layer("downsample." + level + ".0", Edge::kUnshuffle, width << i, width << (i + 1), false));
        }
        middle_ = stage("middle", width << 3, settings.blocks[3], settings.heads[3]);
        for (std::size_t i = 0; i + 1 < kLevels; ++i) {  // from the lowest resolution up
            const std::string number = std::to_string(i);
            const std::size_t level = kLevels - 2 - i;
            const int64_t channels = width << std::max<std::size_t>(level, 1);
            up_.push_back(parts.layer("upsample." + number + ".0", Edge::kShuffle, width << (level + 1), width << level, false));
            if (level > 0)
                reduce_.push_back(parts.layer("reduce." + number, Edge::kMix, 2 * channels, channels, settings.bias));
            decoder_.push_back(stage("decoder." + number, channels, settings.blocks[level], settings.heads[level]));
        }
        refinement_ = stage("refinement", 2 * width, settings.refinement_blocks, settings.heads[0]);
        last_ = parts.layer("last", Edge::kSame, 2 * width, settings.channels, false);
    }

    int64_t multiple() const override { return int64_t{1} << (kLevels - 1); }

    int64_t bytes(int64_t batch, int64_t height, int64_t width, int64_t window) const override {
        const int64_t rows = round_up(height, multiple()), cols = round_up(width, multiple());
        const int64_t input = batch * Layout(settings_.channels, rows, cols).floats();
        const Memory plan = this->plan(batch, rows, cols, input);
        int64_t floats = plan.floats + input;
        for (std::size_t i = 0; window > 0 && i < plan.layouts.size(); ++i) {
            const Layout& level = plan.layouts[i];
            const Sizes sizes{batch, level.channels, level.rows, level.cols, 0, 1, 1};
            const double hidden = static_cast<double>(level.channels) * settings_.expansion;
            floats += averages_floats(sizes, static_cast<int64_t>(hidden), window, rows);
        }
        return static_cast<int64_t>(sizeof(float)) * floats;
    }

    void run(const Tensor4& x, const Tensor4& y, int64_t batch, int64_t height, int64_t width, Context& context,
             int threads, const FilePages& file) const override {
        const PaddedInput input(x, batch, settings_.channels, height, width, multiple());
        const int64_t rows = input.layout.rows, cols = input.layout.cols;
        Run run(kernels_, context, batch, rows, threads, file);
        const Memory plan = this->plan(batch, rows, cols, batch * input.layout.floats());
        const Floats memory = allocate(plan.floats);
        const auto layout = [&](std::size_t i) -> const Layout& { return plan.layouts[i]; };
        const auto whole = [&](std::size_t i) { return layout(i).view(memory.get() + plan.at[i]); };
        const auto skip = [&](std::size_t i) { return layout(i).view(memory.get() + plan.at[i], settings_.width << i); };

        run.layer(first_, input.view, skip(0), Tensor4{}, rows, cols);
        for (std::size_t i = 0; i + 1 < kLevels; ++i) {
            run_stage(run, encoder_[i], skip(i), whole(i), layout(i));
            run.layer(down_[i], skip(i), skip(i + 1), Tensor4{}, layout(i).rows, layout(i).cols);
        }
        run_stage(run, middle_, skip(kLevels - 1), whole(kLevels - 1), layout(kLevels - 1));
        Tensor4 here = skip(kLevels - 1);
        for (std::size_t i = 0; i + 1 < kLevels; ++i) {
            const std::size_t level = kLevels - 2 - i;
            const Tensor4 both = whole(level);
            run.layer(up_[i], here, both, Tensor4{}, layout(level + 1).rows, layout(level + 1).cols);
            if (level > 0) run.layer(reduce_[i], both, both, Tensor4{}, layout(level).rows, layout(level).cols);
            const Tensor4 spare = level > 0 ? skip(level) : layout(0).view(memory.get() + plan.spare);
            run_stage(run, decoder_[i], both, spare, layout(level));
            here = both;
        }
        const Tensor4 spare = layout(0).view(memory.get() + plan.spare);
        run_stage(run, refinement_, here, spare, layout(0));
        if (rows == height && cols == width) return run.layer(last_, here, y, input.view, rows, cols);
        const Tensor4 result = input.layout.view(memory.get() + plan.spare);
        run.layer(last_, here, result, input.view, rows, cols);
        copy(result, y, batch, settings_.channels, height, width);
    }

private:
    // Places of the images of all levels, and of the second image of the first, in floats.
    struct Memory {
        std::vector<Layout> layouts;
        std::vector<int64_t> at;
        int64_t spare, floats;
    };

    // `least`: minimum size in floats of the second image of the first level, which receives the result.
    Memory plan(int64_t batch, int64_t rows, int64_t cols, int64_t least) const {
        Memory made{};
        for (std::size_t i = 0; i < kLevels; ++i) made.layouts.emplace_back(settings_.width << (i + 1), rows >> i, cols >> i);
        made.at.push_back(0);
        int64_t end = made.spare = batch * made.layouts[0].floats();
        for (std::size_t i = 1; i < kLevels; ++i) {
            made.at.push_back(end);
            end += batch * made.layouts[i].floats();
        }
        made.floats = std::max({end, 2 * made.spare, made.spare + least}) + 16;  // the last vectors are read in full
        return made;
    }

    // Both halves of a block move the image: to the second one, and back.
    static void run_stage(Run& run, const Stage& blocks, const Tensor4& here, const Tensor4& spare, const Layout& layout) {
        for (const Block& block : blocks) {
            run.block(block, here, spare, layout.rows, layout.cols);
            run.attention(block, spare, here, layout.rows, layout.cols);
        }
    }

    Settings settings_;
    const Kernels& kernels_;
    EdgeCall first_{}, last_{};
    std::vector<EdgeCall> down_, up_, reduce_;
    std::vector<Stage> encoder_, decoder_;
    Stage middle_, refinement_;
};

}  // namespace

std::unique_ptr<Form> make_kbnet_l(const Settings& settings, Source& source, const Kernels& kernels) {
    return std::make_unique<Large>(settings, source, kernels);
}

}  // namespace kbnet
