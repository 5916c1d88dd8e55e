/* Memory that the server needs no more goes back to the machine.
 *
 * glibc keeps what was freed in between other pieces, for as long as the server lives: what loading models took, and
 * what the queries of a burst did. And half of the code that is mapped into a server was needed to start it alone. Neither
 * Triton nor gRPC ever gives it back, so a thread of ours does. */
#ifndef ELASTICREC_SPARE_MEMORY_H
#define ELASTICREC_SPARE_MEMORY_H

/* For each model that is open; the thread lives as long as there is one. */
void spare_memory_watch(void);
void spare_memory_leave(void);

#endif
