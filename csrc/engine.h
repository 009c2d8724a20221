// A whole network in one call, from an image to the restored one.
//
//     Network  settings and pointers to the weights; can serve any number of calls at the same time
//     Context  where averages over the image come from, as in kbnet/nn/context.py
//     run      plans the memory, then runs the layers, each split over the threads
//
// Images are planar, [B, C, H, W] float32, from the first convolution to the last.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "problem.h"
#include "work.h"

namespace kbnet {

enum class Family { kSmall, kLarge };  // KBNet-S, KBNet-L

// models/config.py explains the names.
struct Settings {
    Family family = Family::kSmall;
    int64_t channels, width, bases, group, kernel, head_limit;
    float eps;
    bool paired = false;  // multiply in bfloat16 if the kernels have such products; sums and images stay float32
    // KBNet-S
    int64_t middle_blocks;
    std::vector<int64_t> encoder_blocks, decoder_blocks;
    double ffn_scale;
    bool lightweight;
    // KBNet-L
    std::vector<int64_t> blocks, heads;  // of four levels
    int64_t refinement_blocks;
    double expansion;
    bool bias;
};

// Finds a parameter by its `state_dict` name; `values` is the number of values that it must have.
class Source {
public:
    virtual ~Source() = default;
    virtual Matrix find(const std::string& name, int64_t values) = 0;
};

struct Context {
    enum Kind { kFullFrame, kLocal, kGather, kShared } kind = kFullFrame;
    int64_t window = 0;                     // of kLocal, in input pixels
    int64_t halo = 0;                       // of kGather: input pixels at each side that averages leave out
    std::vector<std::vector<float>> means;  // output of kGather, input of kShared; one entry per average, in order
};

class Form;

class Network {
public:
    // Finds parameters in `source`. They aren't copied and must outlive the network. `file`: the pages that hold them, if
    // they are mapped. After each layer, a run on a large image releases them.
    Network(const Settings& settings, Source& source, const Kernels& kernels, const FilePages& file = {});
    ~Network();

    // y = the restored x, both [batch, channels, height, width] float32 with contiguous rows of pixels, of any size
    // from 1x1. Sides are padded with zeros to `multiple`; as in the modules, these zeros take part in norms and
    // averages.
    void run(const Tensor4& x, const Tensor4& y, int64_t batch, int64_t height, int64_t width, Context& context,
             int threads) const;

    int64_t multiple() const;
    // Peak memory of a run in bytes, not counting x and y. `window`: of a local context
    int64_t bytes(int64_t batch, int64_t height, int64_t width, int64_t window = 0) const;
    const Kernels& kernels() const { return kernels_; }

private:
    const Kernels& kernels_;
    FilePages file_;
    std::unique_ptr<Form> form_;
};

}  // namespace kbnet
