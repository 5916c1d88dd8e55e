/* The kernels as they run with AVX-512: against a count of their own, and to the bit against those without. */
#include "compare.h"

Seen seen;
Processor *processor;

uint64_t below(uint64_t end) {
    static uint64_t state = 88172645463325252u; /* xorshift64 */
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (state >> 11) % end;
}

void start(void) {
    open_line();
    load_kernels();
    processor = named("elasticrec_processor");
    say("avx2 %d, avx512 %d\n", (int64_t)processor->avx2, (int64_t)processor->avx512);
    if (!processor->avx512) {
        say("the library does not see AVX-512\nFAILED\n\n");
        power_off();
    }
    compare_sums();
    compare_routes();
    say("%d cases, %d ids: %d differ\n%s\n\n", seen.cases, seen.ids, seen.faults, seen.faults ? "FAILED" : "PASSED");
    power_off();
}
