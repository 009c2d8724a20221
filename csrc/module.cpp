// Python's view of the kernels: kbnet.ops._native
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <optional>
#include <stdexcept>

#include "driver.h"
#include "pool.h"

namespace nb = nanobind;
using Array4 = nb::ndarray<float, nb::ndim<4>, nb::device::cpu>;
using Array5 = nb::ndarray<const float, nb::ndim<5>, nb::c_contig, nb::device::cpu>;
using Array2 = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Out5 = nb::ndarray<float, nb::ndim<5>, nb::c_contig, nb::device::cpu>;
using Out2 = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

extern "C" const kbnet::Kernels kbnet_kernels_avx512;

namespace {

kbnet::Tensor4 view(const Array4& a) { return {a.data(), a.stride(0), a.stride(1), a.stride(2), a.stride(3)}; }

void expect(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
}

bool same_shape(const Array4& a, const Array4& b) {
    for (int i = 0; i < 4; ++i)
        if (a.shape(i) != b.shape(i)) return false;
    return true;
}

kbnet::Sizes sizes_of(const Array4& x, const Array4& a, const Array5& w, const Array2& b) {
    const kbnet::Sizes s{static_cast<int64_t>(x.shape(0)), static_cast<int64_t>(x.shape(1)),
                         static_cast<int64_t>(x.shape(2)), static_cast<int64_t>(x.shape(3)),
                         static_cast<int64_t>(w.shape(0)), static_cast<int64_t>(w.shape(2)),
                         static_cast<int64_t>(w.shape(3))};
    expect(w.shape(1) == x.shape(1) && b.shape(1) == x.shape(1), "weight and bias must have x's channels");
    expect(w.shape(3) == w.shape(4) && s.kernel % 2 == 1, "kernels must be square with an odd side");
    expect(s.group > 0 && s.channels % s.group == 0, "channels must be a multiple of the group's");
    expect(b.shape(0) == w.shape(0) && a.shape(1) == w.shape(0), "weight, bias and coefficients differ in bases");
    expect(a.shape(0) == x.shape(0) && a.shape(2) == x.shape(2) && a.shape(3) == x.shape(3),
           "coefficients must have x's batch, height and width");
    return s;
}

void forward(const Array4& x, const Array4& a, const Array5& w, const Array2& b, const Array4& y, int threads) {
    const kbnet::ForwardCall call{sizes_of(x, a, w, b), view(x), view(a), view(y), w.data(), b.data()};
    expect(same_shape(x, y), "y must have x's shape");
    nb::gil_scoped_release release;
    kbnet::forward(kbnet_kernels_avx512, call, threads);
}

void backward(const Array4& x, const Array4& a, const Array5& w, const Array2& b, const Array4& dy,
              const std::optional<Array4>& dx, const std::optional<Array4>& da, const std::optional<Out5>& dw,
              const std::optional<Out2>& db, int threads) {
    kbnet::BackwardCall call{sizes_of(x, a, w, b), view(x), view(a), view(dy), w.data(), b.data(), {}, {}, false};
    expect(same_shape(x, dy) && (!dx || same_shape(x, *dx)), "dy and dx must have x's shape");
    expect(!da || same_shape(a, *da), "da must have the coefficients' shape");
    expect(dw.has_value() == db.has_value(), "dw and db are computed together");
    if (dx) call.dx = view(*dx);
    if (da) call.dcoefficients = view(*da);
    call.want_weight = dw.has_value();
    nb::gil_scoped_release release;
    kbnet::backward(kbnet_kernels_avx512, call, dw ? dw->data() : nullptr, db ? db->data() : nullptr, threads);
}

}  // namespace

NB_MODULE(_native, m) {
    m.def("threads_in_use", &kbnet::threads_in_use);
    m.def("forward", &forward, nb::arg("x"), nb::arg("coefficients"), nb::arg("weight"), nb::arg("bias"), nb::arg("y"),
          nb::arg("threads"));
    m.def("backward", &backward, nb::arg("x"), nb::arg("coefficients"), nb::arg("weight"), nb::arg("bias"),
          nb::arg("dy"), nb::arg("dx").none(), nb::arg("dcoefficients").none(), nb::arg("dweight").none(),
          nb::arg("dbias").none(), nb::arg("threads"));
}
