/* Calls of several queries to one service that go together in one message, or one call alone. A bundle survives the loss
 * of a replica: where one is gone or answers wrongly another is asked, once; where one is slow a second is asked too, if
 * that is wanted. Where the calls may be at fault, and not the replica, each goes alone, so that none harms another. */
#ifndef ELASTICREC_BUNDLES_H
#define ELASTICREC_BUNDLES_H

#include "calls.h"

enum { MOST_ATTEMPTS = 4 }; /* the first, its hedge, the retry, and one alone */

typedef struct Attempt Attempt; /* a bundle as one replica gets it */

struct Bundle {
    RemoteService *service;
    Message message;
    AnswerShape *shapes; /* of the answer's tensors, in the order of the service's groups */
    const void **sums;   /* likewise, where there is an answer */
    int64_t *rows;       /* of each group, of all calls; then of those before each call */
    Unit *units; /* of all calls; NULL where there is one, whose own are sent */
    RowSet set;  /* the un-pooled rows, each once however many calls ask for it */
    Timer hedge;
    Attempt *attempts[MOST_ATTEMPTS]; /* whose answers are waited for */
    int attempt_count;
    int64_t tried[MOST_ATTEMPTS];
    int tried_count;
    bool retried;
    Buffer *answer; /* holds `sums` */
    int64_t waiting;    /* calls that wait for the answer */
    int64_t references; /* calls that wait for it, or read it */
    int64_t call_count;
    Call *calls[]; /* NULL: it waits no longer */
};

/* ---- joining.c ---- */

/* How many of those that wait, at most `most`, a bundle can take: at least one. */
int64_t bundle_room(const RemoteService *service, int64_t most);

/* Their message; NULL where memory is out. */
Bundle *bundle_new(RemoteService *service, Call *const *calls, int64_t call_count);
void bundle_release(Bundle *bundle); /* a reference less */

/* Give each call its part of the answer's tensors. */
void bundle_share(Bundle *bundle);

/* ---- bundles.c ---- */

void bundle_send(Bundle *bundle, Replica *replica);
void bundle_leave(Call *call); /* it waits no longer; where no other does the answer goes unheard */
void bundle_late(Call *call, Problem *problem); /* its deadline has passed: what is to be said of the replica */
void bundle_answered(Bundle *bundle, Buffer *answer); /* which is the bundle's now */
void bundle_attempt_failed(Bundle *bundle, Reason reason, const char *why); /* one that is over */

/* ---- attempts.c ---- */

bool attempt_begin(Bundle *bundle, Replica *replica); /* false where memory is out */
void attempt_leave(Attempt *attempt); /* its answer is not waited for any more: it is gone, its bundle has one less */
void attempt_late(Attempt *attempt, const Query *query, Problem *problem); /* the replica is set aside if it had time */

/* ---- calls.c ---- */

void call_succeeded(Call *call);
void call_failed(Call *call, Reason reason, const char *why); /* it leaves its bundle */

#endif
