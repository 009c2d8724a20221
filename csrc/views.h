// Converts Python's tensors (through DLPack) to the plain data of problem.h.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <stdexcept>
#include <string>

#include "cpu.h"

namespace kbnet {

using AnyTensor4 = nanobind::ndarray<nanobind::ndim<4>, nanobind::device::cpu>;

inline void expect(bool holds, const std::string& what) {
    if (!holds) throw std::invalid_argument(what);
}

template <class Array>
inline bool is_bfloat16(const Array& a) {
    const nanobind::dlpack::dtype type = a.dtype();
    const bool bfloat16 = type.code == static_cast<uint8_t>(nanobind::dlpack::dtype_code::Bfloat) && type.bits == 16;
    expect(bfloat16 || type == nanobind::dtype<float>(), "expected float32 or bfloat16 tensors");
    return bfloat16;
}

inline Tensor4 view(const AnyTensor4& a) {
    return {a.data(), a.stride(0), a.stride(1), a.stride(2), a.stride(3), is_bfloat16(a)};
}

template <class Array>
inline Matrix matrix(const Array& a) {
    return {a.data(), is_bfloat16(a)};
}

template <class A, class B>
void expect_same_shape(const A& a, const B& b, const char* what) {
    for (std::size_t i = 0; i < a.ndim(); ++i) expect(a.shape(i) == b.shape(i), what);
}

inline const Kernels& kernels_named(const std::string& name) {
    for (const Kernels* kernels : usable_kernels())
        if (name.empty() || name == kernels->name) return *kernels;
    throw std::invalid_argument("this build or processor doesn't support the instruction set '" + name + "'");
}

}  // namespace kbnet
