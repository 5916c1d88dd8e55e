/* Between `calls.c` and `attempts.c`: a call's tries on single replicas. */
#ifndef ELASTICREC_ATTEMPTS_H
#define ELASTICREC_ATTEMPTS_H

#include "calls.h"

/* ---- attempts.c ---- */

bool attempt_begin(Call *call, Replica *replica); /* false where memory is out */
void attempt_leave(Attempt *attempt); /* its answer is not waited for any more: it is gone, its call has one less */
void attempt_timed_out(Attempt *attempt, Problem *problem); /* likewise, and the replica is set aside if it had time */

/* ---- calls.c ---- */

void call_stop(Call *call);
void call_succeeded(Call *call, uint8_t *answer); /* the answer, which holds the call's sums, is the call's now */
void call_attempt_failed(Call *call, Reason reason, const char *why);

#endif
