#include "api/receipt_route.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/receipt_operators.h"
#include "api/receipt_request.h"
#include "api/receipt_stats.h"
#include "api/receipts.h"
#include "api/settings.h"
#include "libcommon/base/clock.h"
#include "libcommon/domain/receipt_address.h"
#include "libcommon/telemetry/log.h"

#define RETRY_AFTER_SEC 1
#define TELL_EVERY_MS 10000 /* of what may come thousands of times a second */

static struct receipts *receipts;

/* ---- answers ---- */

static void reply_absent(struct httpd_request *req)
{
    httpd_reply_error(req, 404, "not_found", "There is nothing at this path.", NULL);
}

static void reply_later(struct httpd_request *req)
{
    httpd_reply_retry(req, 503, "unavailable", "The receipts could not be stored. Please retry.",
                      RETRY_AFTER_SEC);
}

/* word: "stored", or "counted" where there was nothing to store. */
static void reply_taken(struct httpd_request *req, const char *word)
{
    char body[32];

    httpd_reply(req, 200, body, (size_t)snprintf(body, sizeof(body), "{\"status\":\"%s\"}", word));
}

/* On the request's thread, at its deadline. */
static void answer_late(struct httpd_request *req, unsigned mark)
{
    (void)mark;
    reply_later(req);
}

/* On a worker's thread. */
static void answer(struct receipt_job *job, enum receipts_outcome outcome)
{
    const char *name = job->receipts[0].operator_name;

    if (outcome == RECEIPTS_FULL)
        receipt_stats_refused(name, RECEIPT_REFUSED_OVERLOADED);
    else if (outcome != RECEIPTS_STORED)
        receipt_stats_refused(name, RECEIPT_REFUSED_UNAVAILABLE);
    if (!httpd_take(job->request))
        return;
    if (outcome == RECEIPTS_STORED)
        reply_taken(job->request, "stored");
    else if (outcome == RECEIPTS_INTERNAL)
        httpd_reply_error(job->request, 500, "internal_error", "Something went wrong.", NULL);
    else
        reply_later(job->request);
}

/* Whether it is time to say something of the kind again. */
static bool may_tell(_Atomic int64_t *told_ms)
{
    int64_t now_ms = clock_mono_ms();
    int64_t last_ms = atomic_load(told_ms);

    return (!last_ms || now_ms - last_ms >= TELL_EVERY_MS) &&
           atomic_compare_exchange_strong(told_ms, &last_ms, now_ms);
}

static void count_forged(const struct httpd_request *req, const char *name, const char *why)
{
    static _Atomic int64_t told_ms;

    receipt_stats_refused(name, RECEIPT_REFUSED_FORGED);
    if (may_tell(&told_ms))
        log_warn("receipt.forged", L_STR("operator", name), L_STR("peer", httpd_peer(req)),
                 L_MSG(why));
}

static void reply_forged(struct httpd_request *req)
{
    httpd_reply_error(req, 403, "forbidden", "This is not from the operator.", NULL);
}

static void count_unreadable(const char *name)
{
    static _Atomic int64_t told_ms;

    receipt_stats_refused(name, RECEIPT_REFUSED_UNREADABLE);
    if (may_tell(&told_ms))
        log_warn(
            "receipt.unreadable", L_STR("operator", name),
            L_MSG("no receipt as the operator's file describes it, or one about nothing; it is "
                  "not kept"));
}

/* ---- from the request to the queue ---- */

static const char *get_header(const void *arg, const char *name)
{
    return httpd_header(arg, name);
}

static struct receipt_request request_of(struct httpd_request *req, const char *secret)
{
    struct receipt_request request = {.peer = httpd_peer(req),
                                      .secret = secret,
                                      .target = httpd_target(req),
                                      .query = httpd_raw_query(req),
                                      .is_get = !strcmp(httpd_method(req), "GET"),
                                      .public_url = api_settings.receipts.public_url,
                                      .header = get_header,
                                      .arg = req};

    request.body = httpd_body(req, &request.body_len);
    return request;
}

static void count_undecided(const struct httpd_request *req, const struct receipt_reader *reader)
{
    static _Atomic int64_t told_ms;

    for (size_t i = 0; i < reader->interim; i++)
        receipt_stats_interim(reader->operator_name, true);
    for (size_t i = 0; i < reader->unclear; i++)
        receipt_stats_interim(reader->operator_name, false);
    if (reader->unclear && may_tell(&told_ms))
        log_warn("receipt.unclear", L_STR("operator", reader->operator_name),
                 L_STR("code", reader->unclear_code),
                 L_MSG("no rule of the operator's file is for it; it is not kept"));
    for (size_t i = 0; i < reader->unreadable; i++)
        count_unreadable(reader->operator_name);
    for (size_t i = 0; i < reader->forged; i++)
        count_forged(req, reader->operator_name, "its reference is none of ours");
}

static void submit(struct httpd_request *req, struct receipt_job *job)
{
    const char *name = job->receipts[0].operator_name;

    httpd_drop_body(req);
    job->request = req;
    job->deadline_ms = clock_mono_ms() + api_settings.request_deadline_ms;
    httpd_set_deadline(req, job->deadline_ms, answer_late);
    if (receipts_submit(receipts, job))
        return;
    receipt_stats_refused(name, RECEIPT_REFUSED_OVERLOADED);
    free(job);
    if (httpd_take(req))
        reply_later(req);
}

static struct receipt_job *job_of(const struct receipt_reader *reader)
{
    struct receipt_job *job = receipt_job_new(reader->n);

    if (job)
        memcpy(job->receipts, reader->receipts, reader->n * sizeof(*reader->receipts));
    return job;
}

/* There is nothing in it to store. What nobody will ever understand is taken all the same: an
 * operator that is refused brings it again, and with it whatever it holds back behind that. */
static void take_nothing(struct httpd_request *req, const struct receipt_reader *reader)
{
    if (reader->forged && !reader->interim && !reader->unclear && !reader->unreadable)
        reply_forged(req);
    else
        reply_taken(req, "counted");
}

static void take(struct httpd_request *req, struct receipt_reader *reader,
                 enum receipt_reading reading)
{
    struct receipt_job *job;

    if (reading == RECEIPT_READ_TOO_MANY) {
        httpd_reply_error(req, 413, "body_too_large", "These are too many receipts at a time.",
                          NULL);
    } else if (reading == RECEIPT_READ_NO_MEMORY) {
        reply_later(req);
    } else {
        count_undecided(req, reader);
        job = reader->n ? job_of(reader) : NULL;
        if (job)
            submit(req, job);
        else if (reader->n)
            reply_later(req);
        else
            take_nothing(req, reader);
    }
}

static void receive(struct httpd_request *req, const struct operator_config *op, const char *secret)
{
    struct receipt_request request = request_of(req, secret);
    struct receipt_reader reader = {.rules = &op->receipts,
                                    .operator_name = op->name,
                                    .reference_key = api_settings.receipts.reference_key,
                                    .most = RECEIPT_BATCH_MAX};

    if (!receipt_request_is_genuine(&op->receipts, &request)) {
        count_forged(req, op->name, "not signed, or not known, as the operator's file says");
        reply_forged(req);
        return;
    }
    take(req, &reader, receipt_request_read(&reader, &request));
    free(reader.receipts);
}

/* "<name>/receipts" or "<name>/receipts/<secret>". NULL: neither. */
static const struct operator_config *find(const struct operator_set *set, const char *rest,
                                          const char **secret)
{
    size_t name_len = strcspn(rest, "/");
    const char *end = rest + name_len;
    const struct operator_config *op;

    if (strncmp(end, RECEIPT_ROUTE_END, strlen(RECEIPT_ROUTE_END)) != 0)
        return NULL;
    end += strlen(RECEIPT_ROUTE_END);
    if (*end && *end != '/')
        return NULL;
    *secret = end + (*end == '/');
    op = operator_set_find(set, rest, name_len);
    return op && op->receipts.given ? op : NULL;
}

void receipt_route_handle(struct httpd_request *req, void *arg)
{
    const char *rest = httpd_path(req) + strlen(RECEIPT_ROUTE);
    struct operator_set *set = receipts ? receipt_operators_keep() : NULL;
    const struct operator_config *op;
    const char *secret = "";

    (void)arg;
    op = set ? find(set, rest, &secret) : NULL;
    if (op)
        receive(req, op, secret);
    else
        reply_absent(req);
    operator_set_drop(set);
}

/* ---- start and end ---- */

int receipt_route_open(struct err *err)
{
    return receipt_operators_open(err);
}

bool receipt_route_is_used(void)
{
    return receipt_operators_any();
}

void receipt_route_start(void)
{
    struct operator_set *set;

    if (!receipt_route_is_used())
        return;
    set = receipt_operators_keep();
    for (size_t i = 0; i < set->n; i++)
        if (set->all[i]->receipts.given)
            receipt_stats_add(set->all[i]->name);
    operator_set_drop(set);
    receipts = receipts_start(answer);
}

void receipt_route_stop(void)
{
    receipts_stop(receipts);
    receipts = NULL;
    receipt_operators_close();
}
