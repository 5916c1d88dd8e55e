#include "processor.h"

#include <cpuid.h>
#include <stdint.h>

Processor elasticrec_processor;

/* The registers that the operating system keeps when it switches threads. */
static uint64_t kept_registers(void) {
    uint32_t low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

__attribute__((constructor)) static void find_out(void) {
    const uint32_t F_DQ_BW_VL = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;
    enum { OSXSAVE = 1 << 27, F16C = 1 << 29, AVX2 = 1 << 5, VPOPCNTDQ = 1 << 14, YMM = 0x6, ZMM = 0xe6 };
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & OSXSAVE)) return;
    const bool f16c = c & F16C;
    const uint64_t kept = kept_registers();
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
    elasticrec_processor.avx2 = (kept & YMM) == YMM && (b & AVX2) && f16c;
    elasticrec_processor.avx512 = f16c && (kept & ZMM) == ZMM && (b & F_DQ_BW_VL) == F_DQ_BW_VL && (c & VPOPCNTDQ);
}
