// Bindings in kbnet.engine._native for training halves of a block. Float32 only.
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "driver.h"
#include "module_training.h"
#include "views.h"

namespace nb = nanobind;

namespace kbnet {
namespace {

// Address and number of values of contiguous float32 CPU tensors; kbnet.ops.training ensures that they are. DLPack
// would cost several microseconds for each of a block's 32 parameters and gradients, which is a lot for small images.
using Arrays = std::vector<std::pair<std::uintptr_t, int64_t>>;

Sizes sizes_of(const AnyTensor4& x) {
    const auto size = [&](std::size_t i) { return static_cast<int64_t>(x.shape(i)); };
    return {size(0), size(1), size(2), size(3), 0, 1, 1};
}

Tensor4 float_view(const AnyTensor4& x) {
    expect(!is_bfloat16(x), "training supports only float32");
    return view(x);
}

// Pointers to the arrays, after checking the size of each.
std::vector<float*> pointers(const Arrays& arrays, const std::vector<int64_t>& sizes) {
    expect(arrays.size() == sizes.size(), "expected " + std::to_string(sizes.size()) + " arrays");
    std::vector<float*> data;
    for (std::size_t i = 0; i < sizes.size(); ++i) {
        expect(arrays[i].second == sizes[i], "array " + std::to_string(i) + " has " + std::to_string(arrays[i].second) +
                                                 " values, expected " + std::to_string(sizes[i]));
        data.push_back(reinterpret_cast<float*>(arrays[i].first));
    }
    return data;
}

std::vector<int64_t> feed_forward_sizes(int64_t c, int64_t d) { return {c, c, 2 * d * c, 2 * d, c * d, c, c}; }

FeedForwardTrainingCall feed_forward_call(const AnyTensor4& x, const Arrays& parameters, int64_t hidden,
                                          double eps) {
    expect(hidden > 0 && x.shape(1) > 0, "x and the hidden layer must have at least one channel");
    FeedForwardTrainingCall call{};
    call.sizes = sizes_of(x), call.hidden = hidden, call.eps = static_cast<float>(eps), call.x = float_view(x);
    const auto p = pointers(parameters, feed_forward_sizes(call.sizes.channels, hidden));
    call.norm_weight = p[0], call.norm_bias = p[1], call.in = p[2], call.in_bias = p[3];
    call.out = p[4], call.out_bias = p[5], call.out_scale = p[6];
    return call;
}

void feed_forward_training_(const AnyTensor4& x, const Arrays& parameters, const AnyTensor4& y, int64_t hidden,
                            double eps, int threads, const std::string& instruction_set) {
    expect_same_shape(x, y, "y must have the shape of x");
    FeedForwardTrainingCall call = feed_forward_call(x, parameters, hidden, eps);
    call.y = float_view(y);
    const Kernels& kernels = kernels_named(instruction_set);
    nb::gil_scoped_release release;
    feed_forward_training(kernels, call, threads);
}

void feed_forward_backward_(const AnyTensor4& dy, const AnyTensor4& x, const Arrays& parameters,
                            const AnyTensor4& dx, const Arrays& gradients, int64_t hidden, double eps, int threads,
                            const std::string& instruction_set) {
    expect_same_shape(x, dy, "dy must have the shape of x");
    expect_same_shape(x, dx, "dx must have the shape of x");
    FeedForwardTrainingCall call = feed_forward_call(x, parameters, hidden, eps);
    call.dy = float_view(dy), call.dx = float_view(dx);
    const auto g = pointers(gradients, feed_forward_sizes(call.sizes.channels, hidden));
    const Kernels& kernels = kernels_named(instruction_set);
    nb::gil_scoped_release release;
    feed_forward_backward(kernels, call, g.data(), threads);
}

// The tensors of a call, with all sizes checked.
FusionTrainingCall fusion_call(const AnyTensor4& x, const AnyTensor4& filtered, const Arrays& parameters,
                               int64_t bases, int64_t group, int64_t kernel, int64_t head, double eps) {
    expect_same_shape(x, filtered, "filtered must have the shape of x");
    FusionTrainingCall call{};
    call.sizes = sizes_of(x);
    const int64_t c = call.sizes.channels;
    expect(bases > 0 && group > 0 && kernel > 0 && kernel % 2 == 1 && c > 0 && c % group == 0, "the bases don't match the other sizes");
    expect(head > 0 && head % 2 == 0 && c % head == 0, "the coefficient head doesn't match the other sizes");
    call.sizes.bases = bases, call.sizes.group = group, call.sizes.kernel = kernel;
    call.head = head, call.eps = static_cast<float>(eps);
    call.x = float_view(x), call.filtered = float_view(filtered);
    std::vector<int64_t> shapes;
    for (int i = 0; i < kFusionParameters; ++i) shapes.push_back(call.size(i));
    const auto p = pointers(parameters, shapes);
    std::copy(p.begin(), p.end(), call.parameters);
    return call;
}

void fusion_training_(const AnyTensor4& x, const Arrays& parameters, const AnyTensor4& y,
                      const AnyTensor4& filtered, int64_t bases, int64_t group, int64_t kernel, int64_t head,
                      double eps, int threads, const std::string& instruction_set) {
    expect_same_shape(x, y, "y must have the shape of x");
    FusionTrainingCall call = fusion_call(x, filtered, parameters, bases, group, kernel, head, eps);
    call.y = float_view(y);
    const Kernels& kernels = kernels_named(instruction_set);
    nb::gil_scoped_release release;
    fusion_training(kernels, call, threads);
}

void fusion_training_backward_(const AnyTensor4& dy, const AnyTensor4& x, const AnyTensor4& filtered,
                               const Arrays& parameters, const AnyTensor4& dx, const Arrays& gradients,
                               int64_t bases, int64_t group, int64_t kernel, int64_t head, double eps, int threads,
                               const std::string& instruction_set) {
    expect_same_shape(x, dy, "dy must have the shape of x");
    expect_same_shape(x, dx, "dx must have the shape of x");
    FusionTrainingCall call = fusion_call(x, filtered, parameters, bases, group, kernel, head, eps);
    call.dy = float_view(dy), call.dx = float_view(dx);
    std::vector<int64_t> shapes;
    for (int i = 0; i < kFusionParameters; ++i) shapes.push_back(call.size(i));
    const auto g = pointers(gradients, shapes);
    const Kernels& kernels = kernels_named(instruction_set);
    nb::gil_scoped_release release;
    fusion_training_backward(kernels, call, g.data(), threads);
}

}  // namespace

void define_training(nb::module_& m) {
    using namespace nb::literals;
    m.def("feed_forward_training", &feed_forward_training_, "x"_a, "parameters"_a, "y"_a.noconvert(), "hidden"_a,
          "eps"_a, "threads"_a, "instruction_set"_a = "", "Computes the feed-forward half of a block into y.");
    m.def("feed_forward_backward", &feed_forward_backward_, "dy"_a, "x"_a, "parameters"_a, "dx"_a.noconvert(),
          "gradients"_a, "hidden"_a, "eps"_a, "threads"_a, "instruction_set"_a = "",
          "Computes the gradients of a block's feed-forward half.");
    m.def("fusion_training", &fusion_training_, "x"_a, "parameters"_a, "y"_a.noconvert(), "filtered"_a.noconvert(),
          "bases"_a, "group"_a, "kernel"_a, "head"_a, "eps"_a, "threads"_a, "instruction_set"_a = "",
          "Computes the fusion half of a block into y; filtered receives what the backward pass needs besides x.");
    m.def("fusion_training_backward", &fusion_training_backward_, "dy"_a, "x"_a, "filtered"_a, "parameters"_a,
          "dx"_a.noconvert(), "gradients"_a, "bases"_a, "group"_a, "kernel"_a, "head"_a, "eps"_a, "threads"_a, "instruction_set"_a = "",
          "Computes the gradients of a block's fusion half.");
}

}  // namespace kbnet
