#include "cpu.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

#if defined(KBNET_X86_BUILDS)
#include <cpuid.h>

#include <cstdint>
#endif
#if defined(KBNET_AMX_BUILD)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace kbnet {

extern const Kernels kernels_portable;
#if defined(KBNET_X86_BUILDS)
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
#endif
#if defined(KBNET_AVX512_BF16_BUILD)
extern const Kernels kernels_avx512bf16;
#endif
#if defined(KBNET_AMX_BUILD)
extern const Kernels kernels_amx;
#endif
#if defined(KBNET_EMULATED_AMX_BUILD)
extern const Kernels kernels_amx_emulated;
#endif

namespace {

std::string forced_instruction_set() {
    const char* const name = std::getenv("KBNET_INSTRUCTION_SET");
    return name ? name : "";
}

#if defined(KBNET_X86_BUILDS)
// What the processor can do and the operating system has enabled. Asked directly: with some toolchains,
// __builtin_cpu_supports denies everything.
struct Capabilities {
    bool avx2 = false, avx512 = false, avx512bf16 = false, amx = false;

    Capabilities() {
        unsigned a, b, c, d;
        if (!__get_cpuid(1, &a, &b, &c, &d)) return;
        const bool fma = bit(c, 12), saved_by_system = bit(c, 27), avx = bit(c, 28);
        if (!saved_by_system || !avx) return;
        const uint64_t registers = enabled_registers();
        const bool ymm = (registers & 0x06) == 0x06, zmm = (registers & 0xE6) == 0xE6;
        if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
        avx2 = ymm && fma && bit(b, 5);
        avx512 = avx2 && zmm && bit(b, 16) && bit(b, 17) && bit(b, 30) && bit(b, 31);  // F, DQ, BW, VL
        const bool tiles = (registers & 0x60000) == 0x60000;
        const bool matrix_unit = tiles && bit(d, 22) && bit(d, 24);  // products of bfloat16, tiles
        const unsigned subleaves = a;
        if (subleaves >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) avx512bf16 = avx512 && bit(a, 5);
        amx = avx512bf16 && matrix_unit;
    }

    static bool bit(unsigned value, int number) { return value >> number & 1; }

    // The register XCR0. By an instruction of its own, since the intrinsic needs a compiler option.
    static uint64_t enabled_registers() {
        uint32_t low, high;
        __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
        return uint64_t{high} << 32 | low;
    }
};
#endif

#if defined(KBNET_AMX_BUILD)
// Linux gives a process the registers of the matrix unit, which are large, only if it asks. Another instruction set in the
// environment variable is a way out, should a machine's unit not work at all.
bool may_use_tiles() {
    const std::string forced = forced_instruction_set();
    if (!forced.empty() && forced != "amx") return false;
    constexpr long kRequestPermission = 0x1023, kTileData = 18;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#endif

}  // namespace

const std::vector<const Kernels*>& usable_kernels() {
    static const std::vector<const Kernels*> usable = [] {
        std::vector<const Kernels*> found;
#if defined(KBNET_X86_BUILDS)
        const Capabilities has;
        if (has.avx512) found.push_back(&kernels_avx512);
#if defined(KBNET_AVX512_BF16_BUILD)
        if (has.avx512bf16)
            found.insert(kernels_avx512bf16.pairs_are_faster() ? found.begin() : found.end(), &kernels_avx512bf16);
#endif
#if defined(KBNET_AMX_BUILD)
        if (has.amx && may_use_tiles() && kernels_amx.works())
            found.insert(kernels_amx.pairs_are_faster() ? found.begin() : found.end(), &kernels_amx);
#endif
        if (has.avx2) found.push_back(&kernels_avx2);
#endif
        found.push_back(&kernels_portable);
#if defined(KBNET_EMULATED_AMX_BUILD)
        if (kernels_amx_emulated.works()) found.push_back(&kernels_amx_emulated);
#endif
        return found;
    }();
    return usable;
}

const Kernels& chosen_kernels() {
    const std::string forced = forced_instruction_set();
    std::string known;
    for (const Kernels* kernels : usable_kernels()) {
        if (forced.empty() || forced == kernels->name) return *kernels;
        known += std::string(known.empty() ? "" : ", ") + kernels->name;
    }
    throw std::invalid_argument("expected KBNET_INSTRUCTION_SET to be one of " + known + ", got " + forced);
}

}  // namespace kbnet
