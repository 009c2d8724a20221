#include <algorithm>
#include <memory>
#include <utility>

#include "averages.h"
#include "layers.h"

namespace kbnet {
namespace {

// KBNet-S. A level needs two images. All deeper levels fit in the unused one, so a whole run takes the memory of two
// images of the first level.
class Small final : public Form {
public:
    Small(const Settings& settings, Source& source, const Kernels& kernels) : settings_(settings), kernels_(kernels) {
        const Parts parts(settings, source);
        const auto stage = [&](const std::string& name, int64_t channels, int64_t count) {
            Stage made;
            for (int64_t i = 0; i < count; ++i) made.push_back(parts.block_s(name + "." + std::to_string(i), channels));
            return made;
        };
        int64_t width = settings.width;
        first_ = parts.layer("first", Edge::kSame, settings.channels, width, true);
        for (std::size_t i = 0; i < settings.encoder_blocks.size(); ++i) {
            const std::string level = std::to_string(i);
            encoder_.push_back(stage("encoder." + level, width, settings.encoder_blocks[i]));
            down_.push_back(parts.layer("downsample." + level, Edge::kDown, width, 2 * width, true));
            width *= 2;
        }
        middle_ = stage("middle", width, settings.middle_blocks);
        for (std::size_t i = 0; i < settings.decoder_blocks.size(); ++i) {
            const std::string level = std::to_string(i);
            width /= 2;
            up_.push_back(parts.layer("upsample." + level + ".0", Edge::kUp, 2 * width, width, false));
            decoder_.push_back(stage("decoder." + level, width, settings.decoder_blocks[i]));
        }
        last_ = parts.layer("last", Edge::kSame, width, settings.channels, true);
    }

    int64_t multiple() const override { return int64_t{1} << encoder_.size(); }

    int64_t bytes(int64_t batch, int64_t height, int64_t width, int64_t window) const override {
        const int64_t rows = round_up(height, multiple()), cols = round_up(width, multiple());
        const int64_t input = batch * Layout(settings_.channels, rows, cols).floats();
        const Memory plan = this->plan(batch, rows, cols, input);
        int64_t floats = plan.floats + input;
        for (std::size_t i = 0; window > 0 && i < plan.levels.size(); ++i) {
            const Layout& level = plan.levels[i].layout;
            const Sizes sizes{batch, level.channels, level.rows, level.cols, 0, 1, 1};
            floats += averages_floats(sizes, level.channels, window, rows);
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
        std::vector<Images> images;
        for (const Level& level : plan.levels) images.push_back({memory.get() + level.here, memory.get() + level.spare});
        const auto layout = [&](std::size_t i) -> const Layout& { return plan.levels[i].layout; };

        run.layer(first_, input.view, layout(0).view(images[0].here), Tensor4{}, rows, cols);
        for (std::size_t i = 0; i < encoder_.size(); ++i) {
            const float* const before = images[i].spare;
            run_stage(run, encoder_[i], images[i], layout(i));
            // Deeper levels are in the unused slot, whichever of the two that is.
            const int64_t moved = images[i].spare - before;
            for (std::size_t deeper = i + 1; deeper < images.size(); ++deeper)
                images[deeper].here += moved, images[deeper].spare += moved;
            run.layer(down_[i], layout(i).view(images[i].here), layout(i + 1).view(images[i + 1].here), Tensor4{},
                      layout(i + 1).rows, layout(i + 1).cols);
        }
        run_stage(run, middle_, images.back(), plan.levels.back().layout);
        for (std::size_t i = 0; i < decoder_.size(); ++i) {
            const std::size_t level = decoder_.size() - 1 - i;
            const Tensor4 skip = layout(level).view(images[level].here);
            run.layer(up_[i], layout(level + 1).view(images[level + 1].here), skip, skip, layout(level + 1).rows,
                      layout(level + 1).cols);
            run_stage(run, decoder_[i], images[level], layout(level));
        }
        const Tensor4 result = layout(0).view(images[0].here);
        if (rows == height && cols == width) return run.layer(last_, result, y, input.view, rows, cols);
        const Tensor4 whole = input.layout.view(images[0].spare);
        run.layer(last_, result, whole, input.view, rows, cols);
        copy(whole, y, batch, settings_.channels, height, width);
    }

private:
    struct Level {
        Layout layout;
        int64_t here, spare;  // offsets in floats
    };
    // Places of the images of all levels: two slots per level, with all deeper levels in the unused one.
    struct Memory {
        std::vector<Level> levels;
        int64_t floats;
    };
    struct Images {
        float *here, *spare;
    };

    // `least`: minimum size in floats of the first level's slots; one of them receives the result.
    Memory plan(int64_t batch, int64_t rows, int64_t cols, int64_t least) const {
        Memory made{};
        std::vector<Level>& levels = made.levels;
        for (std::size_t i = 0; i <= encoder_.size(); ++i)
            levels.push_back({Layout(settings_.width << i, rows >> i, cols >> i), 0, 0});
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
        made.floats = deeper + 16;  // the last vectors are read in full
        return made;
    }

    static void run_stage(Run& run, const Stage& blocks, Images& images, const Layout& layout) {
        for (const Block& block : blocks) {
            run.block(block, layout.view(images.here), layout.view(images.spare), layout.rows, layout.cols);
            std::swap(images.here, images.spare);
        }
    }

    Settings settings_;
    const Kernels& kernels_;
    EdgeCall first_{}, last_{};
    std::vector<EdgeCall> down_, up_;
    std::vector<Stage> encoder_, decoder_;
    Stage middle_;
};

}  // namespace

std::unique_ptr<Form> make_kbnet_s(const Settings& settings, Source& source, const Kernels& kernels) {
    return std::make_unique<Small>(settings, source, kernels);
}

}  // namespace kbnet
