/* What the processor that we run on can do: found out by ourselves, since the compiler's own dispatch (`target_clones`)
 * always takes the slowest variant in zig 0.17. */
#ifndef ELASTICREC_PROCESSOR_H
#define ELASTICREC_PROCESSOR_H

#include <stdbool.h>

typedef struct {
    bool avx2;   /* and F16C: Haswell, Zen and later */
    bool avx512; /* F, BW, DQ, VL and VPOPCNTDQ: Ice Lake, Zen 4 and later */
} Processor;

extern Processor elasticrec_processor; /* set when the library is loaded */

#endif
