#ifndef CONSUMERD_LANE_H
#define CONSUMERD_LANE_H

/*
 * One lane (express or normal): a thread with a broker connection, a database connection and the
 * messages it has in hand. Its turn: take what the broker has delivered and what the operators have
 * answered, settle all of that in few transactions, claim what has come in one, hand it to the
 * dispatch, acknowledge what is settled. No timer makes batches: an idle lane works on a single
 * message at once, a busy one on what came while it worked, and, but for express, while it paused
 * for as long as its transactions take (pace.h).
 *
 *   broker -> arrived -> claim -> dispatch -> done / not done -> settle -> ack
 *
 * Database away: results wait, bounded by what may be in hand, until it is back or the incarnation
 * is over. Broker away: work in hand goes on and is settled; its acks are void, the broker delivers
 * it again and it is found finished, or still in hand. Incarnation over (worker.h): everything in
 * hand is forgotten, both connections are dropped; the rows stay ours by name only.
 */

#include "consumerd/alone.h"
#include "consumerd/dispatch.h"
#include "consumerd/settings.h"
#include "consumerd/worker.h"

struct lane;

struct lane_config {
    enum message_type type;
    const struct settings *settings;
    const struct operator_address *operators;
    size_t operator_count;
    struct worker *worker;
    struct alone *alone;
    struct doorbell *doorbell; /* NULL: what is put off is found without it */
    struct job_queue *queue;   /* of this lane */
};

struct lane *lane_new(const struct lane_config *config);
void lane_start(struct lane *l, struct dispatch *dispatch);
/* Takes no more from the broker; ends when what is in hand is settled. Any thread. */
void lane_drain(struct lane *l);
/* Ends with its present turn, whatever is in hand. Any thread. */
void lane_abort(struct lane *l);
/* Waits for the thread, at most timeout_ms; true: it has ended. */
bool lane_wait(struct lane *l, int timeout_ms);
/* The thread and the dispatch have ended. NULL is fine. */
void lane_free(struct lane *l);

#endif
