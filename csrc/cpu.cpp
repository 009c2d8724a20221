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

[[maybe_unused]] constexpr char kNotBuilt[] = "this build of kbnet doesn't include it";
[[maybe_unused]] constexpr char kNotInProcessor[] = "this processor doesn't have it";
[[maybe_unused]] constexpr char kNotEnabled[] = "the operating system hasn't enabled it";

#if defined(KBNET_X86_BUILDS)
// What the processor can do and the operating system has enabled. Asked directly: with some toolchains,
// __builtin_cpu_supports denies everything.
struct Capabilities {
    // Null if it can be used, else why not.
    const char *avx2 = kNotInProcessor, *avx512 = kNotInProcessor, *avx512bf16 = kNotInProcessor, *amx = kNotInProcessor;

    Capabilities() {
        unsigned a, b, c, d;
        if (!__get_cpuid(1, &a, &b, &c, &d)) return;
        const bool fma = bit(c, 12), saved_by_system = bit(c, 27), avx = bit(c, 28);
        const uint64_t registers = saved_by_system && avx ? enabled_registers() : 0;
        if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
        const auto why_not = [&](bool in_processor, uint64_t needs) {
            return !in_processor ? kNotInProcessor : (registers & needs) == needs ? nullptr : kNotEnabled;
        };
        const bool has_avx2 = fma && bit(b, 5);
        const bool has_avx512 = has_avx2 && bit(b, 16) && bit(b, 17) && bit(b, 30) && bit(b, 31);  // F, DQ, BW, VL
        const bool matrix_unit = bit(d, 22) && bit(d, 24);  // products of bfloat16, tiles
        const unsigned subleaves = a;
        const bool has_bf16 =
            has_avx512 && subleaves >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && bit(a, 5);
        avx2 = why_not(has_avx2, 0x06), avx512 = why_not(has_avx512, 0xE6), avx512bf16 = why_not(has_bf16, 0xE6);
        amx = why_not(has_bf16 && matrix_unit, 0x600E6);
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
const char* why_not_tiles() {
    const std::string forced = forced_instruction_set();
    if (!forced.empty() && forced != "amx") return "KBNET_INSTRUCTION_SET names another";
    constexpr long kRequestPermission = 0x1023, kTileData = 18;
    if (syscall(SYS_arch_prctl, kRequestPermission, kTileData) != 0) return "the operating system denied its registers";
    return kernels_amx.works() ? nullptr : "its self-test failed";
}
#endif

struct Builds {
    std::vector<const Kernels*> usable;
    std::vector<std::pair<std::string, std::string>> unusable;

    Builds() {
#if defined(KBNET_X86_BUILDS)
        const Capabilities has;
        add(has.avx512, kernels_avx512);
#if defined(KBNET_AVX512_BF16_BUILD)
        add(has.avx512bf16, kernels_avx512bf16);
#else
        unusable.emplace_back("avx512bf16", kNotBuilt);
#endif
#if defined(KBNET_AMX_BUILD)
        add(has.amx ? has.amx : why_not_tiles(), kernels_amx);
#elif !defined(KBNET_EMULATED_AMX_BUILD)
        unusable.emplace_back("amx", kNotBuilt);
#endif
        add(has.avx2, kernels_avx2);
#endif
        add(nullptr, kernels_portable);
#if defined(KBNET_EMULATED_AMX_BUILD)
        if (kernels_amx_emulated.works()) usable.push_back(&kernels_amx_emulated);  // last, because it is slow
#endif
    }

    void add(const char* why_not, const Kernels& kernels) {
        if (why_not)
            unusable.emplace_back(kernels.name, why_not);
        else
            usable.insert(kernels.has_pairs && kernels.pairs_are_faster() ? usable.begin() : usable.end(), &kernels);
    }
};

const Builds& builds() {
    static const Builds found;
    return found;
}

}  // namespace

const std::vector<const Kernels*>& usable_kernels() { return builds().usable; }
const std::vector<std::pair<std::string, std::string>>& unusable_kernels() { return builds().unusable; }

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
