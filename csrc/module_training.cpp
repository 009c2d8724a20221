// The part of kbnet.ops._native that trains halves of a block. Float32 only.
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <vector>

#include "driver.h"
#include "module_block.h"
#include "views.h"

namespace nb = nanobind;

namespace kbnet {
namespace {

using Parameters = std::vector<nb::ndarray<const float, nb::c_contig, nb::device::cpu>>;
using Gradients = std::vector<nb::ndarray<float, nb::c_contig, nb::device::cpu>>;

Sizes sizes_of(const AnyTensor4& x) {
    const auto size = [&](std::size_t i) { return static_cast<int64_t>(x.shape(i)); };
    return {size(0), size(1), size(2), size(3), 0, 1, 1};
}

Tensor4 float_view(const AnyTensor4& x) {
    expect(!is_bfloat16(x), "training computes float32");
    return view(x);
}

// The arrays' numbers, each array of the size expected of it.
template <class Arrays>
auto pointers(const Arrays& arrays, const std::vector<int64_t>& sizes) {
    expect(arrays.size() == sizes.size(), "expected " + std::to_string(sizes.size()) + " arrays");
    std::vector<decltype(arrays[0].data())> data;
    for (std::size_t i = 0; i < sizes.size(); ++i) {
        expect(static_cast<int64_t>(arrays[i].size()) == sizes[i], "array " + std::to_string(i) + " has " +
                                                                       std::to_string(arrays[i].size()) +
                                                                       " values, expected " + std::to_string(sizes[i]));
        data.push_back(arrays[i].data());
    }
    return data;
}

void feed_forward_backward_(const AnyTensor4& dy, const AnyTensor4& x, const Parameters& parameters,
                            const AnyTensor4& dx, const Gradients& gradients, int64_t hidden, double eps, int threads,
                            const std::string& instruction_set) {
    expect_same_shape(x, dy, "dy must have the shape of x");
    expect_same_shape(x, dx, "dx must have the shape of x");
    expect(hidden > 0 && x.shape(1) > 0, "x and the hidden width must have channels");
    const Sizes sizes = sizes_of(x);
    const int64_t c = sizes.channels, d = hidden;
    const std::vector<int64_t> shapes{c, c, 2 * d * c, 2 * d, c * d, c, c};
    const auto p = pointers(parameters, shapes);
    const auto g = pointers(gradients, shapes);
    const FeedForwardBackwardCall call{sizes, d,    static_cast<float>(eps), float_view(x), float_view(dy), float_view(dx),
                                       p[0],  p[1], p[2], p[3], p[4], p[5], p[6]};
    const Kernels& kernels = kernels_named(instruction_set);
    nb::gil_scoped_release release;
    feed_forward_backward(kernels, call, g.data(), threads);
}

}  // namespace

void define_training(nb::module_& m) {
    using namespace nb::literals;
    m.def("feed_forward_backward", &feed_forward_backward_, "dy"_a, "x"_a, "parameters"_a, "dx"_a, "gradients"_a,
          "hidden"_a, "eps"_a, "threads"_a, "instruction_set"_a = "",
          "Write the gradients of a block's feed-forward half.");
}

}  // namespace kbnet
