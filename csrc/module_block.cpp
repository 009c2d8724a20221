// Bindings in kbnet.engine._native for halves of a block in inference.
#include "module_block.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <vector>

#include "driver.h"
#include "views.h"

namespace nb = nanobind;

namespace kbnet {
namespace {

using Parameter = std::optional<nb::ndarray<nb::c_contig, nb::device::cpu>>;
using Parameters = std::vector<Parameter>;
using Grid = nb::ndarray<float, nb::ndim<4>, nb::c_contig, nb::device::cpu>;

// Reads parameters in order and checks the number of values of each.
class Reader {
public:
    explicit Reader(const Parameters& parameters) : parameters_(parameters) {}

    Matrix take(int64_t values, bool needed = true) {
        expect(next_ < parameters_.size(), "too few parameters");
        const Parameter& p = parameters_[next_++];
        expect(p.has_value() || !needed, "parameter " + std::to_string(next_ - 1) + " is missing");
        if (!p) return {};
        expect(static_cast<int64_t>(p->size()) == values, "parameter " + std::to_string(next_ - 1) + " has " +
                                                              std::to_string(p->size()) + " values, expected " +
                                                              std::to_string(values));
        return matrix(*p);
    }
    Matrix maybe(int64_t values) { return take(values, false); }
    void end() const { expect(next_ == parameters_.size(), "too many parameters"); }

private:
    const Parameters& parameters_;
    std::size_t next_ = 0;
};

Sizes sizes_of(const AnyTensor4& x, int64_t bases, int64_t group, int64_t kernel) {
    const auto size = [&](std::size_t i) { return static_cast<int64_t>(x.shape(i)); };
    return {size(0), size(1), size(2), size(3), bases, group, kernel};
}

void fusion_(const AnyTensor4& x, const AnyTensor4& y, const Grid& means, int64_t cell, const Parameters& parameters,
             int64_t bases, int64_t group, int64_t kernel, int64_t head, int64_t static_group, int64_t static_kernel,
             bool gelu, bool paired, double eps, int threads, const std::string& instruction_set) {
    expect_same_shape(x, y, "y must have the shape of x");
    FusionCall call{};
    call.sizes = sizes_of(x, bases, group, kernel);
    const int64_t c = call.sizes.channels, d = static_cast<int64_t>(means.shape(1)), n = bases;
    expect(n > 0 && group > 0 && kernel > 0 && kernel % 2 == 1 && d > 0 && d % group == 0, "the bases don't match the other sizes");
    expect(static_group > 0 && static_kernel > 0 && static_kernel % 2 == 1 && d % static_group == 0,
           "the static branch doesn't match the other sizes");
    expect(head > 0 && head % 2 == 0 && c % head == 0, "the coefficient head doesn't match the other sizes");
    expect(cell > 0 && (means.shape(0) == 1 || means.shape(0) == x.shape(0)), "the means don't match the other sizes");
    call.hidden = d, call.head = head, call.static_group = static_group, call.static_kernel = static_kernel;
    call.gelu = gelu, call.paired = paired, call.eps = static_cast<float>(eps);
    call.x = view(x), call.y = view(y);
    call.means = means.data(), call.means_batch = static_cast<int64_t>(means.shape(0)), call.cell = cell;
    call.grid_rows = static_cast<int64_t>(means.shape(2)), call.grid_cols = static_cast<int64_t>(means.shape(3));
    expect(call.grid_rows > 0 && call.grid_cols > 0, "the means don't match the other sizes");

    Reader read(parameters);
    call.norm_weight = read.take(c), call.norm_bias = read.take(c);
    call.static_in = read.take(d * c), call.static_in_bias = read.maybe(d);
    call.static_conv = read.take(d * static_group * static_kernel * static_kernel);
    call.static_conv_bias = read.maybe(d);
    call.adaptive_in = read.take(d * c), call.adaptive_in_bias = read.maybe(d);
    call.adaptive_conv = read.take(d * 9), call.adaptive_conv_bias = read.maybe(d);
    call.head_conv = read.take(c * 9), call.head_conv_bias = read.maybe(head);
    call.expand = read.take(n * (head / 2)), call.expand_bias = read.maybe(n);
    call.projection = read.take(n * c), call.projection_bias = read.maybe(n);
    call.coefficient_scale = read.take(n);
    call.bases = read.take(n * d * group * kernel * kernel), call.bases_bias = read.take(n * d);
    call.kba_scale = read.take(d);
    call.out = read.take(c * d), call.out_bias = read.maybe(c), call.out_scale = read.maybe(c);
    read.end();
    const Kernels& kernels = kernels_named(instruction_set);
    nb::gil_scoped_release release;
    fusion(kernels, call, threads);
}

void feed_forward_(const AnyTensor4& x, const AnyTensor4& y, const Parameters& parameters, int64_t hidden, bool paired,
                   double eps, int threads, const std::string& instruction_set) {
    expect_same_shape(x, y, "y must have the shape of x");
    FeedForwardCall call{};
    call.sizes = sizes_of(x, 0, 1, 1);
    const int64_t c = call.sizes.channels, d = hidden;
    expect(d > 0, "the hidden width must be positive");
    call.hidden = d, call.paired = paired, call.eps = static_cast<float>(eps);
    call.x = view(x), call.y = view(y);
    Reader read(parameters);
    call.norm_weight = read.take(c), call.norm_bias = read.take(c);
    call.in = read.take(2 * d * c), call.in_bias = read.maybe(2 * d);
    call.out = read.take(c * d), call.out_bias = read.maybe(c), call.out_scale = read.maybe(c);
    read.end();
    const Kernels& kernels = kernels_named(instruction_set);
    nb::gil_scoped_release release;
    feed_forward(kernels, call, threads);
}

void cell_sums_(const AnyTensor4& x, const Parameters& parameters, const Grid& sums, int64_t cell_rows,
                int64_t cell_cols, double eps, int threads, const std::string& instruction_set) {
    expect(cell_rows > 0 && cell_cols > 0, "cells must have at least one row and column");
    SumsCall call{};
    call.sizes = sizes_of(x, 0, 1, 1);
    call.eps = static_cast<float>(eps), call.x = view(x);
    call.cell_rows = cell_rows, call.cell_cols = cell_cols;
    const int64_t expected[] = {call.sizes.batch, call.sizes.channels, call.grid_rows(), call.grid_cols()};
    for (std::size_t i = 0; i < 4; ++i)
        expect(static_cast<int64_t>(sums.shape(i)) == expected[i], "sums must be [B, C, rows of cells, columns of cells]");
    call.sums = sums.data();
    Reader read(parameters);
    call.norm_weight = read.take(call.sizes.channels), call.norm_bias = read.take(call.sizes.channels);
    read.end();
    const Kernels& kernels = kernels_named(instruction_set);
    nb::gil_scoped_release release;
    cell_sums(kernels, call, threads);
}

}  // namespace

void define_block(nb::module_& m) {
    using namespace nb::literals;
    m.def("fusion", &fusion_, "x"_a, "y"_a.noconvert(), "means"_a, "cell"_a, "parameters"_a, "bases"_a, "group"_a,
          "kernel"_a, "head"_a, "static_group"_a, "static_kernel"_a, "gelu"_a, "paired"_a, "eps"_a, "threads"_a,
          "instruction_set"_a = "", "Computes the fusion half of a block into y; csrc/problem.h defines the order of parameters.");
    m.def("feed_forward", &feed_forward_, "x"_a, "y"_a.noconvert(), "parameters"_a, "hidden"_a, "paired"_a, "eps"_a,
          "threads"_a, "instruction_set"_a = "", "Computes the feed-forward half of a block into y, which can be x.");
    m.def("cell_sums", &cell_sums_, "x"_a, "parameters"_a, "sums"_a.noconvert(), "cell_rows"_a, "cell_cols"_a, "eps"_a,
          "threads"_a, "instruction_set"_a = "", "Writes the sums of the normalized x over cells of pixels.");
}

}  // namespace kbnet
