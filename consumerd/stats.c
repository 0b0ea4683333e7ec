#include "consumerd/stats.h"

#include <stdio.h>

struct stats stats;

static const char *const event_names[] = {
    [STATS_SUCCESS] = "success",     [STATS_FAILED] = "failed",   [STATS_RETRY] = "retry",
    [STATS_DUPLICATE] = "duplicate", [STATS_PUT_OFF] = "put_off", [STATS_LOST] = "lost",
    [STATS_DEAD] = "dead_lettered",
};
static const char *const dead_names[] = {
    [STATS_DEAD_BODY] = "bad_body",          [STATS_DEAD_QUEUE] = "wrong_queue",
    [STATS_DEAD_NO_ROWS] = "no_rows",        [STATS_DEAD_TAKEOVERS] = "takeovers",
    [STATS_DEAD_UNSETTLED] = "not_writable", [STATS_DEAD_UNREADABLE] = "unreadable",
};

const char *stats_dead_name(enum stats_dead reason)
{
    return dead_names[reason];
}

static void register_lane(const struct settings *s, enum message_type type)
{
    char escaped[METRICS_ESCAPED(255)];
    const char *queue = metrics_escape(escaped, sizeof(escaped), topology_queue(&s->broker, type));
    char labels[sizeof(escaped) + 64];

    for (int i = 0; i < STATS_EVENTS; i++) {
        snprintf(labels, sizeof(labels), "queue=\"%s\",result=\"%s\"", queue, event_names[i]);
        stats.lane[type].events[i] =
            metrics_counter("worker_events_total", "Messages from the broker.", labels);
    }
    snprintf(labels, sizeof(labels), "queue=\"%s\"", queue);
    stats.lane[type].event_seconds = metrics_latency(
        "worker_event_duration_seconds", "From a message's delivery to its settlement.", labels);
    stats.lane[type].redelivered = metrics_counter(
        "msg_redelivered_total", "Messages that the broker delivered again.", labels);
    stats.lane[type].in_hand =
        metrics_gauge("msg_recipients_in_hand", "Recipients claimed and not settled.", labels);
    snprintf(labels, sizeof(labels), "type=\"%s\"", message_type_name(type));
    stats.lane[type].delivery_seconds =
        metrics_latency("msg_delivery_seconds", "From acceptance of the request to done.", labels);
}

static void register_operator(unsigned op, const char *name)
{
    char labels[128];

    for (int i = 0; i < VERDICTS; i++) {
        snprintf(labels, sizeof(labels), "operator=\"%s\",result=\"%s\"", name,
                 verdict_metric_name((enum verdict)i));
        stats.op[op].calls[i] =
            metrics_counter("operator_calls_total", "Calls that ask to deliver.", labels);
    }
    for (int i = 0; i < LOOKUP_ANSWERS; i++) {
        snprintf(labels, sizeof(labels), "operator=\"%s\",result=\"%s\"", name,
                 lookup_answer_name((enum lookup_answer)i));
        stats.op[op].lookups[i] = metrics_counter(
            "msg_operator_lookups_total", "Questions about calls whose answer was lost.", labels);
    }
    for (int i = 0; i < BREAKER_STATES; i++) {
        snprintf(labels, sizeof(labels), "operator=\"%s\",state=\"%s\"", name,
                 breaker_state_name((enum breaker_state)i));
        stats.op[op].breaker[i] =
            metrics_gauge("msg_breaker_state", "1 for the state the breaker is in.", labels);
        stats.op[op].transitions[i] = metrics_counter("msg_breaker_transitions_total",
                                                      "Changes of the breaker's state.", labels);
    }
    for (int i = 0; i < UNFIT_REASONS; i++) {
        snprintf(labels, sizeof(labels), "operator=\"%s\",reason=\"%s\"", name,
                 unfit_name((enum unfit)i));
        stats.op[op].unfit[i] =
            metrics_gauge("msg_operator_unfit", "1: it cannot serve us, for that reason.", labels);
    }
    snprintf(labels, sizeof(labels), "status=\"done\",operator=\"%s\"", name);
    stats.op[op].done = metrics_counter("msg_final_total", "Recipients that became final.", labels);
    snprintf(labels, sizeof(labels), "operator=\"%s\"", name);
    stats.op[op].seconds =
        metrics_latency("operator_duration_seconds", "Time a call to deliver took.", labels);
    stats.op[op].unknown = metrics_counter(
        "msg_unknown_outcomes_total",
        "Recipients that became final while this operator may have them too.", labels);
    stats.op[op].in_flight =
        metrics_gauge("msg_operator_in_flight", "Calls and lookups under way.", labels);
    stats.op[op].refused = metrics_counter(
        "msg_breaker_refusals_total",
        "Calls not made because the breaker was open or the operator rests.", labels);
    stats.op[op].parts =
        metrics_counter("msg_operator_parts_total",
                        "Parts that accepted messages have, as the operator says.", labels);
    stats.op[op].cost_millionths = metrics_counter(
        "msg_operator_cost_millionths_total",
        "What accepted messages cost there, in millionths of its currency.", labels);
    stats.op[op].remaining = metrics_gauge(
        "msg_operator_balance", "What is left of our money there, in whole units.", labels);
    stats.op[op].remaining_low =
        metrics_gauge("msg_operator_balance_low",
                      "1: that is below what its file names, and somebody has to pay.", labels);
    metrics_set(stats.op[op].breaker[BREAKER_CLOSED], 1);
}

void stats_breaker(unsigned op, enum breaker_state state)
{
    for (int i = 0; i < BREAKER_STATES; i++)
        metrics_set(stats.op[op].breaker[i], i == (int)state);
    metrics_add(stats.op[op].transitions[state], 1);
}

void stats_unfit(unsigned op, enum unfit reason)
{
    for (int i = 0; i < UNFIT_REASONS; i++)
        metrics_set(stats.op[op].unfit[i], i == (int)reason);
}

void stats_register(const struct settings *s, const struct operator_address *operators, size_t n)
{
    char labels[64];

    for (int type = 0; type < MESSAGE_LANES; type++)
        register_lane(s, (enum message_type)type);
    for (size_t i = 0; i < n; i++)
        register_operator((unsigned)i, operators[i].name);
    stats.failed = metrics_counter("msg_final_total", "Recipients that became final.",
                                   "status=\"failed\",operator=\"none\"");
    for (int i = 0; i < DELIVERY_FAILURES; i++) {
        snprintf(labels, sizeof(labels), "reason=\"%s\"",
                 delivery_failure_name((enum delivery_failure)i));
        stats.refunds[i] = metrics_counter("msg_refunds_total", "Recipients refunded.", labels);
    }
    for (int i = 0; i < STATS_DEADS; i++) {
        snprintf(labels, sizeof(labels), "reason=\"%s\"", dead_names[i]);
        stats.dead[i] =
            metrics_counter("msg_dead_lettered_total", "Messages put aside for a person.", labels);
    }
    stats.retries = metrics_counter("msg_retries_total",
                                    "Recipients put back into the outbox for another round.", "");
    stats.holds = metrics_counter("msg_holds_total",
                                  "Recipients held beyond their retry window, each time that an "
                                  "operator which may have one did not answer.",
                                  "");
    stats.takeovers =
        metrics_counter("msg_takeovers_total", "Recipients taken over from a dead consumer.", "");
    stats.claim_batch =
        metrics_sizes("msg_claim_batch_messages", "Messages claimed in one transaction.", "");
    stats.settle_batch =
        metrics_sizes("msg_settle_batch_recipients", "Recipients settled in one transaction.", "");
}
