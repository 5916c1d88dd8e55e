/* What the comparisons share: the library's functions, drawn numbers, and a count of what differed. */
#ifndef COMPARE_H
#define COMPARE_H

#include "kernels/processor.h"
#include "machine.h"

typedef struct {
    int64_t cases, ids, faults;
} Seen;

extern Seen seen;
extern Processor *processor; /* the library's: what it believes to run on */

uint64_t below(uint64_t end); /* drawn, evenly */

void compare_routes(void);
void compare_sums(void);

#endif
