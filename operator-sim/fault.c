#include "operator-sim/fault.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "operator-sim/hash.h"

#define KIND_LATENCY FAULT_KINDS /* a roll of its own */
#define LATENCY_MAX_MS 600000
#define TIMES_MAX 1000000000

/* The fields that are whole numbers. */
static const struct number {
    const char *name;
    size_t offset;
    int64_t min, max, initial;
} numbers[] = {
    {"latency_ms", offsetof(struct fault_set, latency_ms), 0, LATENCY_MAX_MS, 0},
    {"latency_max_ms", offsetof(struct fault_set, latency_max_ms), 0, LATENCY_MAX_MS, 0},
    {"status", offsetof(struct fault_set, status), 200, 599, 0},
    {"lookup_status", offsetof(struct fault_set, lookup_status), 200, 599, 0},
    {"reject_status", offsetof(struct fault_set, reject_status), 400, 499, 422},
    {"retry_after", offsetof(struct fault_set, retry_after), 0, 86400, -1},
    {"refuse_ms", offsetof(struct fault_set, refuse_ms), 1, LATENCY_MAX_MS, 0},
};
#define NUMBERS (sizeof(numbers) / sizeof(numbers[0]))

/* Each has the fields <name>_share and <name>_times. */
static const char *const kind_names[FAULT_KINDS] = {
    [FAULT_STATUS] = "status",
    [FAULT_RESET] = "reset",
    [FAULT_HANG] = "hang",
    [FAULT_ACCEPT_THEN_HANG] = "accept_then_hang",
    [FAULT_ACCEPT_THEN_RESET] = "accept_then_reset",
    [FAULT_REJECT] = "reject",
    [FAULT_LOOKUP_STATUS] = "lookup_status",
    [FAULT_LOOKUP_HANG] = "lookup_hang",
};

static int64_t *number_of(struct fault_set *set, const struct number *n)
{
    return (int64_t *)(void *)((char *)set + n->offset);
}

void fault_none(struct fault_set *set)
{
    memset(set, 0, sizeof(*set));
    for (size_t i = 0; i < NUMBERS; i++)
        *number_of(set, &numbers[i]) = numbers[i].initial;
    for (size_t i = 0; i < FAULT_KINDS; i++)
        set->kind[i].times = FAULT_UNLIMITED;
}

static bool whole(const json_t *value, int64_t min, int64_t max)
{
    return json_is_integer(value) && json_integer_value(value) >= min &&
           json_integer_value(value) <= max;
}

static bool take_number(struct fault_set *set, const char *name, const json_t *value, char *why,
                        size_t size, bool *known)
{
    for (size_t i = 0; i < NUMBERS; i++) {
        const struct number *n = &numbers[i];

        if (strcmp(n->name, name) != 0)
            continue;
        *known = true;
        if (!whole(value, n->min, n->max)) {
            snprintf(why, size, "%s must be a whole number from %lld to %lld", name,
                     (long long)n->min, (long long)n->max);
            return false;
        }
        *number_of(set, n) = json_integer_value(value);
    }
    return true;
}

/* <kind>_share or <kind>_times */
static bool take_kind(struct fault_set *set, const char *name, const json_t *value, char *why,
                      size_t size, bool *known)
{
    for (size_t i = 0; i < FAULT_KINDS; i++) {
        size_t n = strlen(kind_names[i]);

        if (strncmp(name, kind_names[i], n) != 0)
            continue;
        if (!strcmp(name + n, "_share")) {
            *known = true;
            set->kind[i].share = json_number_value(value);
            if (json_is_number(value) && set->kind[i].share >= 0 && set->kind[i].share <= 1)
                continue;
            snprintf(why, size, "%s must be a number from 0 to 1", name);
            return false;
        }
        if (!strcmp(name + n, "_times")) {
            *known = true;
            set->kind[i].times = json_integer_value(value);
            if (whole(value, 0, TIMES_MAX))
                continue;
            snprintf(why, size, "%s must be a whole number from 0 to %d", name, TIMES_MAX);
            return false;
        }
    }
    return true;
}

static bool take_other(struct fault_set *set, const char *name, const json_t *value, char *why,
                       size_t size, bool *known)
{
    if (!strcmp(name, "refuse")) {
        *known = true;
        set->refuse = json_is_true(value);
        if (!json_is_boolean(value))
            snprintf(why, size, "refuse must be true or false");
        return json_is_boolean(value);
    }
    if (!strcmp(name, "reject_prefix")) {
        const char *text = json_string_value(value);

        *known = true;
        if (!text || !*text || strlen(text) > FAULT_PREFIX_MAX) {
            snprintf(why, size, "reject_prefix must be a text of 1 to %d characters",
                     FAULT_PREFIX_MAX);
            return false;
        }
        snprintf(set->reject_prefix, sizeof(set->reject_prefix), "%s", text);
    }
    return true;
}

/* What naming one field says about another: a fault that is described but has no share strikes
 * always. */
static bool complete(struct fault_set *set, const json_t *object, char *why, size_t size)
{
    if (set->status && !json_object_get(object, "status_share"))
        set->kind[FAULT_STATUS].share = 1;
    if (set->lookup_status && !json_object_get(object, "lookup_status_share"))
        set->kind[FAULT_LOOKUP_STATUS].share = 1;
    if (*set->reject_prefix && !json_object_get(object, "reject_share"))
        set->kind[FAULT_REJECT].share = 1;
    if (set->kind[FAULT_STATUS].share > 0 && !set->status) {
        snprintf(why, size, "status_share needs status");
        return false;
    }
    if (set->kind[FAULT_LOOKUP_STATUS].share > 0 && !set->lookup_status) {
        snprintf(why, size, "lookup_status_share needs lookup_status");
        return false;
    }
    if (set->latency_max_ms && set->latency_max_ms < set->latency_ms) {
        snprintf(why, size, "latency_max_ms must not be below latency_ms");
        return false;
    }
    set->refuse = set->refuse || set->refuse_ms;
    return true;
}

bool fault_parse(const char *json, size_t n, struct fault_set *set, char *why, size_t size)
{
    json_t *object = json_loadb(json, n, JSON_REJECT_DUPLICATES, NULL);
    struct fault_set parsed;
    const char *name;
    json_t *value;
    bool ok = json_is_object(object);

    fault_none(&parsed);
    if (!ok)
        snprintf(why, size, "must be a JSON object");
    json_object_foreach(object, name, value)
    {
        bool known = false;

        ok = take_number(&parsed, name, value, why, size, &known) &&
             take_kind(&parsed, name, value, why, size, &known) &&
             take_other(&parsed, name, value, why, size, &known);
        if (ok && !known) {
            snprintf(why, size, "there is no fault \"%.40s\"", name);
            ok = false;
        }
        if (!ok)
            break;
    }
    ok = ok && complete(&parsed, object, why, size);
    json_decref(object);
    if (ok)
        *set = parsed;
    return ok;
}

void fault_put_json(struct buf *out, const struct fault_set *set)
{
    const char *comma = "";

    buf_putc(out, '{');
    for (size_t i = 0; i < NUMBERS; i++) {
        int64_t value;

        memcpy(&value, (const char *)set + numbers[i].offset, sizeof(value));
        if (value == numbers[i].initial)
            continue;
        buf_printf(out, "%s\"%s\":%lld", comma, numbers[i].name, (long long)value);
        comma = ",";
    }
    for (size_t i = 0; i < FAULT_KINDS; i++) {
        const struct fault *f = &set->kind[i];

        if (f->share <= 0)
            continue;
        buf_printf(out, "%s\"%s_share\":%g", comma, kind_names[i], f->share);
        comma = ",";
        if (f->times != FAULT_UNLIMITED)
            buf_printf(out, ",\"%s_times\":%lld", kind_names[i], (long long)f->times);
    }
    if (*set->reject_prefix) {
        buf_printf(out, "%s\"reject_prefix\":", comma);
        buf_put_json(out, set->reject_prefix, strlen(set->reject_prefix));
        comma = ",";
    }
    if (set->refuse)
        buf_printf(out, "%s\"refuse\":true", comma);
    buf_putc(out, '}');
}

bool fault_strikes(struct fault_set *set, enum fault_kind kind, uint64_t seed,
                   const char *reference, uint32_t attempt)
{
    struct fault *f = &set->kind[kind];

    if (f->share <= 0 || f->times == 0 || hash_roll(seed, kind, reference, attempt) >= f->share)
        return false;
    if (f->times > 0)
        f->times--;
    return true;
}

int64_t fault_latency_us(const struct fault_set *set, uint64_t seed, const char *reference,
                         uint32_t attempt)
{
    int64_t low_us = set->latency_ms * 1000;
    int64_t high_us = set->latency_max_ms * 1000;

    if (high_us <= low_us)
        return low_us;
    return low_us + (int64_t)(hash_roll(seed, KIND_LATENCY, reference, attempt) *
                              (double)(high_us - low_us + 1));
}
