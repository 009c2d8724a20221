// Python bindings of the kernels: kbnet.engine._native. Takes tensors through DLPack; the caller allocates outputs.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <string>
#include <vector>

#include "cpu.h"
#include "driver.h"
#include "module_engine.h"
#include "module_training.h"
#include "pool.h"
#include "views.h"

namespace nb = nanobind;

namespace {

using kbnet::AnyTensor4, kbnet::expect, kbnet::expect_same_shape, kbnet::kernels_named, kbnet::matrix, kbnet::view;
using Weight = nb::ndarray<nb::ndim<5>, nb::c_contig, nb::device::cpu>;
using Bias = nb::ndarray<nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using WeightOut = nb::ndarray<float, nb::ndim<5>, nb::c_contig, nb::device::cpu>;
using BiasOut = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

kbnet::Sizes sizes_of(const AnyTensor4& x, const AnyTensor4& a, const Weight& w, const Bias& b) {
    const auto size = [](std::size_t n) { return static_cast<int64_t>(n); };
    const kbnet::Sizes s{size(x.shape(0)), size(x.shape(1)), size(x.shape(2)), size(x.shape(3)),
                         size(w.shape(0)), size(w.shape(2)), size(w.shape(3))};
    expect(w.shape(1) == x.shape(1) && b.shape(1) == x.shape(1), "weight and bias must have the channels of x");
    expect(w.shape(3) == w.shape(4) && s.kernel % 2 == 1, "kernels must be square with an odd side");
    expect(s.group > 0 && s.channels % s.group == 0, "channels must be a multiple of the channels of a group");
    expect(b.shape(0) == w.shape(0) && a.shape(1) == w.shape(0), "weight, bias and coefficients must have the same number of bases");
    expect(a.shape(0) == x.shape(0) && a.shape(2) == x.shape(2) && a.shape(3) == x.shape(3),
           "coefficients must have the batch, height and width of x");
    return s;
}

void forward(const AnyTensor4& x, const AnyTensor4& coefficients, const Weight& weight, const Bias& bias,
             const AnyTensor4& y, bool split, int threads, const std::string& instruction_set) {
    const kbnet::ForwardCall call{
        sizes_of(x, coefficients, weight, bias), view(x), view(coefficients), view(y), matrix(weight), matrix(bias),
        split, nullptr};
    expect_same_shape(x, y, "y must have the shape of x");
    const kbnet::Kernels& kernels = kernels_named(instruction_set);
    nb::gil_scoped_release release;
    kbnet::forward(kernels, call, threads);
}

void backward(const AnyTensor4& dy, const AnyTensor4& x, const AnyTensor4& coefficients, const Weight& weight,
              const Bias& bias, const std::optional<AnyTensor4>& dx, const std::optional<AnyTensor4>& dcoefficients,
              const std::optional<WeightOut>& dweight, const std::optional<BiasOut>& dbias, int threads,
              const std::string& instruction_set) {
    kbnet::BackwardCall call{sizes_of(x, coefficients, weight, bias),
                             view(x),
                             view(coefficients),
                             view(dy),
                             matrix(weight),
                             matrix(bias),
                             nullptr,
                             {},
                             {},
                             dweight.has_value()};
    expect_same_shape(x, dy, "dy must have the shape of x");
    if (dx) {
        expect_same_shape(x, *dx, "dx must have the shape of x");
        call.dx = view(*dx);
    }
    if (dcoefficients) {
        expect_same_shape(coefficients, *dcoefficients, "dcoefficients must have the shape of coefficients");
        call.dcoefficients = view(*dcoefficients);
    }
    expect(dweight.has_value() == dbias.has_value(), "dweight and dbias must both be given, or neither");
    if (dweight) {
        expect_same_shape(weight, *dweight, "dweight must have the shape of weight");
        expect_same_shape(bias, *dbias, "dbias must have the shape of bias");
    }
    const kbnet::Kernels& kernels = kernels_named(instruction_set);
    nb::gil_scoped_release release;
    kbnet::backward(kernels, call, dweight ? dweight->data() : nullptr, dbias ? dbias->data() : nullptr, threads);
}

std::vector<std::pair<std::string, bool>> instruction_sets() {
    std::vector<std::pair<std::string, bool>> found;
    for (const kbnet::Kernels* kernels : kbnet::usable_kernels()) found.emplace_back(kernels->name, kernels->has_pairs);
    return found;
}

}  // namespace

NB_MODULE(_native, m) {
    using namespace nb::literals;
    m.doc() = "Kernel basis attention on the CPU; see csrc/.";
    // Never convert outputs: nanobind would write to a copy.
    m.def("forward", &forward, "x"_a, "coefficients"_a, "weight"_a, "bias"_a, "y"_a.noconvert(), "split"_a, "threads"_a,
          "instruction_set"_a = "", "Writes the operator's output to y.");
    m.def("backward", &backward, "dy"_a, "x"_a, "coefficients"_a, "weight"_a, "bias"_a, "dx"_a.none().noconvert(),
          "dcoefficients"_a.none().noconvert(), "dweight"_a.none().noconvert(), "dbias"_a.none().noconvert(),
          "threads"_a, "instruction_set"_a = "", "Writes the gradients that are not None.");
    kbnet::define_engine(m);
    kbnet::define_training(m);
    m.def("instruction_sets", &instruction_sets, "The instruction sets of this build that the processor supports, fastest first, and whether they have products of "
          "bfloat16.");
    m.def("unusable_instruction_sets", &kbnet::unusable_kernels, "The others, and why they can't be used.");
    m.def("thread_source", &kbnet::thread_source, "'openmp' or 'own': the threads that the kernels use.");
}
