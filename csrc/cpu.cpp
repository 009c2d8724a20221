#include "cpu.h"

namespace kbnet {

extern const Kernels kernels_portable;
#if defined(KBNET_X86_BUILDS)
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
#endif
#if defined(KBNET_AVX512_BF16_BUILD)
extern const Kernels kernels_avx512bf16;
#endif

const std::vector<const Kernels*>& usable_kernels() {
    static const std::vector<const Kernels*> usable = [] {
        std::vector<const Kernels*> found;
#if defined(KBNET_X86_BUILDS)
        __builtin_cpu_init();
        const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                            __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
        const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#if defined(KBNET_AVX512_BF16_BUILD)
        if (avx512 && avx2 && __builtin_cpu_supports("avx512bf16")) found.push_back(&kernels_avx512bf16);
#endif
        if (avx512 && avx2) found.push_back(&kernels_avx512);
        if (avx2) found.push_back(&kernels_avx2);
#endif
        found.push_back(&kernels_portable);
        return found;
    }();
    return usable;
}

}  // namespace kbnet
