// A whole KBNet-S in one call: from an image to the restored one, without anything else between its layers.
//
//     Network  settings, and where the weights lie; used by any number of calls, also at the same time
//     Context  where averages over the image come from, as in kbnet/nn/context.py
//     run      plans the memory, then goes through the layers, each shared out over the threads
//
// Images lie channel by channel, [B, C, H, W] float32, from the first convolution to the last. A level needs two
// images; everything deeper fits into the one that is not in use, so a whole run needs two images of the first level.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "problem.h"
#include "work.h"

namespace kbnet {

struct Settings {
    int64_t channels, width, middle_blocks, bases, group, kernel, head_limit;
    std::vector<int64_t> encoder_blocks, decoder_blocks;
    double ffn_scale;
    bool lightweight;
    float eps;
};

// Finds a parameter by its name in the state of the PyTorch module; `values` is how many numbers it must have.
class Source {
public:
    virtual ~Source() = default;
    virtual Matrix find(const std::string& name, int64_t values) = 0;
};

struct Context {
    enum Kind { kFullFrame, kLocal, kGather, kShared } kind = kFullFrame;
    int64_t window = 0;                     // of kLocal, pixels of the input
    int64_t halo = 0;                       // of kGather: pixels at each side that are not averaged over
    std::vector<std::vector<float>> means;  // kGather: filled, one entry a block; kShared: used
};

class Network {
public:
    // Finds parameters in `source`, which must outlive the network: they are used where they lie.
    Network(const Settings& settings, Source& source, const Kernels& kernels);
    ~Network();

    // y = the restored x, both [batch, channels, height, width] float32 with contiguous rows of pixels. Any size from
    // 1x1; sides are padded with zeros to `multiple`, which take part in norms and averages as in the modules.
    void run(const Tensor4& x, const Tensor4& y, int64_t batch, int64_t height, int64_t width, Context& context,
             int threads) const;

    int64_t multiple() const;
    // Bytes that a run takes at its peak besides x and y.
    int64_t bytes(int64_t batch, int64_t height, int64_t width) const;
    const Kernels& kernels() const;

private:
    struct Parts;
    struct Memory;
    std::unique_ptr<Parts> parts_;
};

}  // namespace kbnet
