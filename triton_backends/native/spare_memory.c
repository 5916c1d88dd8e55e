#include "spare_memory.h"

#include <malloc.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <time.h>

#include "loaded_code.h"

/* When loading is over, and how often afterwards: to take memory from the kernel again for the next query costs more than
 * to keep it, and what is in use all the time is touched again after each trim. */
enum { LOADED_S = 3, BETWEEN_S = 10 };

static pthread_mutex_t models_lock = PTHREAD_MUTEX_INITIALIZER; /* of the two functions; the thread never takes it */
static int models;
static bool started;
static pthread_t thread;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t stop;
static bool stopping;

static bool stopped_within(int seconds) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += seconds;
    pthread_mutex_lock(&lock);
    while (!stopping && pthread_cond_timedwait(&stop, &lock, &until) == 0) continue;
    const bool stopped = stopping;
    pthread_mutex_unlock(&lock);
    return stopped;
}

/* How much of a process is spare nobody tells, so it is always tried: it takes about a millisecond. */
static void *watch(void *nothing) {
    prctl(PR_SET_NAME, "elasticrec-mem");
    if (stopped_within(LOADED_S)) return nothing;
    loaded_code_release();
    do malloc_trim(0);
    while (!stopped_within(BETWEEN_S));
    return nothing;
}

static bool start(void) {
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&stop, &attributes);
    pthread_condattr_destroy(&attributes);
    stopping = false;
    return pthread_create(&thread, NULL, watch, NULL) == 0; /* without it all works, and takes more memory */
}

void spare_memory_watch(void) {
    pthread_mutex_lock(&models_lock);
    if (models++ == 0) started = start();
    pthread_mutex_unlock(&models_lock);
}

void spare_memory_leave(void) {
    pthread_mutex_lock(&models_lock);
    if (--models == 0 && started) {
        pthread_mutex_lock(&lock);
        stopping = true;
        pthread_cond_signal(&stop);
        pthread_mutex_unlock(&lock);
        pthread_join(thread, NULL);
        pthread_cond_destroy(&stop);
    }
    pthread_mutex_unlock(&models_lock);
}
