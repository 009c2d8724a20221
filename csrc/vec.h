// A vector of floats in the widest register of the instruction set this file is compiled for.
//
// Uses the compiler's vector types instead of intrinsics, so one source serves AVX-512, AVX2, SSE and NEON. Everything
// is in an unnamed namespace, so that instruction sets never share a symbol.
#pragma once

#include <cstdint>

namespace {

#if defined(__AVX512F__) || defined(KBNET_EMULATED_MATRIX_UNIT)
constexpr int kLanes = 16;
constexpr int kRegisters = 32;
#elif defined(__AVX__)
constexpr int kLanes = 8;
constexpr int kRegisters = 16;
#elif defined(__aarch64__)
constexpr int kLanes = 4;
constexpr int kRegisters = 32;
#else
constexpr int kLanes = 4;
constexpr int kRegisters = 16;
#endif

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef float UnalignedVec __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));

inline Vec load(const float* p) { return *reinterpret_cast<const UnalignedVec*>(p); }
inline void store(float* p, Vec v) { *reinterpret_cast<UnalignedVec*>(p) = v; }

// `p` in a register of its own. As offsets from a common base, GCC keeps the addresses of an inner loop in memory, and
// clang for WebAssembly computes each of them anew.
inline const float* own_pointer(const float* p) {
    __asm__("" : "+r"(p));
    return p;
}

// Four floats, for transposing [pixels][channels] into [channels][pixels].
typedef float Quad __attribute__((vector_size(16)));
typedef float UnalignedQuad __attribute__((vector_size(16), aligned(4), may_alias));

#if defined(__clang__) || __GNUC__ >= 12
#define KBNET_SHUFFLE(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
typedef int32_t QuadIndex __attribute__((vector_size(16)));
#define KBNET_SHUFFLE(a, b, i, j, k, l) __builtin_shuffle(a, b, QuadIndex{i, j, k, l})
#endif

inline void transpose(Quad& a, Quad& b, Quad& c, Quad& d) {
    const Quad ab_low = KBNET_SHUFFLE(a, b, 0, 4, 1, 5), ab_high = KBNET_SHUFFLE(a, b, 2, 6, 3, 7);
    const Quad cd_low = KBNET_SHUFFLE(c, d, 0, 4, 1, 5), cd_high = KBNET_SHUFFLE(c, d, 2, 6, 3, 7);
    a = KBNET_SHUFFLE(ab_low, cd_low, 0, 1, 4, 5);
    b = KBNET_SHUFFLE(ab_low, cd_low, 2, 3, 6, 7);
    c = KBNET_SHUFFLE(ab_high, cd_high, 0, 1, 4, 5);
    d = KBNET_SHUFFLE(ab_high, cd_high, 2, 3, 6, 7);
}

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

}  // namespace
