#ifndef TEST_UNIT_CONSUMERD_MAKE_H
#define TEST_UNIT_CONSUMERD_MAKE_H

/* Messages and jobs as the lane makes them, for suites of what becomes of them. */

#include <check.h>
#include <stdio.h>
#include <string.h>

#include "consumerd/inflight.h"
#include "consumerd/settings.h"
#include "libcommon/base/clock.h"

#define MAKE_ME 5 /* workers.id of this process */

static inline void make_taken(struct inflight *m, const char *why, void *arg)
{
    ck_assert_msg(!why, "%s", why);
    *(struct inflight **)arg = m;
}

/* Of customer 7, delivered alone with that tag. */
static inline struct inflight *make_message(const char *id, uint64_t tag)
{
    const char *recipients[] = {"0912"};
    struct message m = {.customer_id = 7,
                        .text = "hello",
                        .text_len = 5,
                        .recipients = recipients,
                        .recipient_count = 1};
    static size_t sum;
    struct broker_event event = {.tag = tag, .message_id = "", .traceparent = "", .tracestate = ""};
    struct arrival *arrival = NULL;
    struct arrival was;
    struct inflight *made = NULL;
    struct buf body = {0};
    struct err err;

    snprintf(m.id, sizeof(m.id), "%s", id);
    snprintf(m.transaction_id, sizeof(m.transaction_id), "c-%s", id);
    message_put_json(&body, &m);
    event.body = body.data;
    event.body_len = body.len;
    arrival = arrival_new(&event, 0, &sum);
    ck_assert_int_eq(arrival_read(arrival, &event, make_taken, &made, &err), 0);
    ck_assert(!arrival_over(arrival, &was)); /* its reader's part */
    buf_free(&body);
    return made;
}

/* Row status_id of the message, claimed by us for the first time, finished: position status_id - 1,
 * number 09<status_id>, price 10. */
static inline struct job *make_job(struct inflight *m, uint64_t status_id, enum job_outcome outcome)
{
    struct job *job = job_new(m);

    ck_assert_ptr_nonnull(job);
    job->status_id = status_id;
    job->position = (unsigned)status_id - 1;
    job->attempt = 1;
    job->user_id = m->customer_id;
    job->price = 10;
    job->give_up_at_ms = clock_mono_ms() + 3600000;
    job->outcome = outcome;
    snprintf(job->recipient, sizeof(job->recipient), "09%llu", (unsigned long long)status_id);
    snprintf(job->provider_id, sizeof(job->provider_id), "p-%llu", (unsigned long long)status_id);
    snprintf(job->error, sizeof(job->error), "HTTP 503");
    return job;
}

static const struct operator_address make_operators[] = {{.name = "alfa"}, {.name = "beta"}};

static inline void make_settings(struct settings *s)
{
    static char exchange[] = "exchange", normal[] = "normal", express[] = "express", none[] = "";

    *s = (struct settings){
        .broker = {.bundle_max = 1,
                   .exchange = exchange,
                   .queues = {[MESSAGE_NORMAL] = normal, [MESSAGE_EXPRESS] = express}},
        .consumer = {.timeout_ms = 2000,
                     .repeat_unsafe = none,
                     .without_lookup = none,
                     .held_ask_max_sec = 600,
                     .retry_window_sec = 3600,
                     .retry_base_ms = 1000,
                     .retry_max_ms = 60000,
                     .takeovers_max = 5,
                     .dead_sec = 30,
                     .prefetch_normal = 100,
                     .recipients_normal = 100,
                     .claim_batch = 10,
                     .settle_batch = 10,
                     .repair_after_sec = 300,
                     .repair_interval_ms = 1,
                     .repair_max = 8,
                     .repair_max_batch = 2,
                     .repair_rate = 100000},
    };
}

#endif
