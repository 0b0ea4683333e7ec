#include "api/receipt_stats.h"

#include <stdio.h>
#include <string.h>

#include "libcommon/base/must.h"
#include "libcommon/telemetry/metrics.h"

#define OPERATORS_MAX 8

enum says { SAYS_DELIVERED, SAYS_UNDELIVERED, SAYS_INTERIM, SAYS_UNCLEAR, SAYS };

static const char *const says_names[SAYS] = {
    [SAYS_DELIVERED] = "delivered",
    [SAYS_UNDELIVERED] = "undelivered",
    [SAYS_INTERIM] = "interim",
    [SAYS_UNCLEAR] = "unclear",
};

static const char *const refusal_names[RECEIPT_REFUSALS] = {
    [RECEIPT_REFUSED_FORGED] = "forged",
    [RECEIPT_REFUSED_UNREADABLE] = "unreadable",
    [RECEIPT_REFUSED_OVERLOADED] = "overloaded",
    [RECEIPT_REFUSED_UNAVAILABLE] = "unavailable",
};

/* Written at start, before the threads that read it. */
static struct stats {
    char name[RECEIPT_OPERATOR_MAX + 1];
    struct metric *says[SAYS], *results[RECEIPT_RESULTS], *refused[RECEIPT_REFUSALS], *delay;
} all[OPERATORS_MAX];
static size_t count;

#define LABELS_SIZE (METRICS_ESCAPED(RECEIPT_OPERATOR_MAX) + 64)

/* operator="alfa", and another label unless that is NULL. */
static const char *labels_of(const struct stats *s, const char *label, const char *value,
                             char out[LABELS_SIZE])
{
    char escaped[METRICS_ESCAPED(RECEIPT_OPERATOR_MAX)];

    metrics_escape(escaped, sizeof(escaped), s->name);
    if (label)
        snprintf(out, LABELS_SIZE, "operator=\"%s\",%s=\"%s\"", escaped, label, value);
    else
        snprintf(out, LABELS_SIZE, "operator=\"%s\"", escaped);
    return out;
}

void receipt_stats_add(const char *operator_name)
{
    struct stats *s = &all[count++];
    char labels[LABELS_SIZE];

    MUST(count <= OPERATORS_MAX);
    snprintf(s->name, sizeof(s->name), "%s", operator_name);
    for (int i = 0; i < SAYS; i++)
        s->says[i] = metrics_counter("msg_receipts_total", "Receipts, by what they say.",
                                     labels_of(s, "says", says_names[i], labels));
    for (int i = 0; i < RECEIPT_RESULTS; i++)
        s->results[i] = metrics_counter(
            "msg_receipt_results_total",
            "Receipts stored, by what came of them; late: delivered, and its price had gone back.",
            labels_of(s, "result", receipt_result_name((enum receipt_result)i), labels));
    for (int i = 0; i < RECEIPT_REFUSALS; i++)
        s->refused[i] = metrics_counter("msg_receipts_refused_total",
                                        "Requests with receipts that were not taken, and receipts "
                                        "that could not be.",
                                        labels_of(s, "reason", refusal_names[i], labels));
    s->delay = metrics_latency("msg_receipt_delay_seconds",
                               "From a recipient's `done` to the receipt that decided.",
                               labels_of(s, NULL, NULL, labels));
}

static struct stats *stats_of(const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (!strcmp(all[i].name, name))
            return &all[i];
    return NULL;
}

static void count_result(const struct stats *s, const struct recipient_receipt *r)
{
    metrics_add(s->results[r->result], 1);
    if (r->waited_ms >= 0 && (r->result == RECEIPT_CHANGED || r->result == RECEIPT_NOTED))
        metrics_observe(s->delay, r->waited_ms * 1000);
}

void receipt_stats_stored(const struct recipient_receipt *r)
{
    const struct stats *s = stats_of(r->operator_name);

    if (!s)
        return;
    metrics_add(s->says[r->delivered ? SAYS_DELIVERED : SAYS_UNDELIVERED], 1);
    count_result(s, r);
}

void receipt_stats_matched(const struct recipient_receipt *r)
{
    const struct stats *s = stats_of(r->operator_name);

    if (s)
        count_result(s, r);
}

void receipt_stats_interim(const char *operator_name, bool known)
{
    const struct stats *s = stats_of(operator_name);

    if (s)
        metrics_add(s->says[known ? SAYS_INTERIM : SAYS_UNCLEAR], 1);
}

void receipt_stats_refused(const char *operator_name, enum receipt_refusal refusal)
{
    const struct stats *s = stats_of(operator_name);

    if (s)
        metrics_add(s->refused[refusal], 1);
}
