/* An outbox row's payload: what is found lies inside it, and is what jansson finds there. */

#include "outboxd/payload.h"

#include <jansson.h>

#include "test/fuzz/fuzz.h"

static bool is_name(const json_t *v)
{
    size_t n = json_string_length(v);

    return json_is_string(v) && n && n <= PAYLOAD_NAME_MAX && strlen(json_string_value(v)) == n;
}

/* A row as the database has them: JSON, in which no NUL stands (jansson skips one behind a number).
 * Escaped names of fields are none of ours. */
static bool is_payload(const json_t *root, const uint8_t *data, size_t size)
{
    return json_is_object(root) && !memchr(data, '\\', size) && !memchr(data, '\0', size) &&
           is_name(json_object_get(root, "exchange")) &&
           is_name(json_object_get(root, "routing_key")) &&
           json_is_object(json_object_get(root, "message"));
}

static void check(const struct payload *p, const json_t *root)
{
    json_t *body = json_loadb(p->body, p->body_len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);

    MUST(json_equal(body, json_object_get(root, "message")));
    MUST(!strcmp(p->exchange, json_string_value(json_object_get(root, "exchange"))));
    MUST(!strcmp(p->routing_key, json_string_value(json_object_get(root, "routing_key"))));
    json_decref(body);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *json = (const char *)data;
    json_t *root = json_loadb(json, size, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
    bool sound = is_payload(root, data, size);
    struct trace_context trace;
    struct payload p;
    struct err err = {0};

    if (payload_parse(json, size, &p, &err)) {
        MUST(err.kind == ERR_PERMANENT && *err.msg && !sound);
    } else {
        MUST(*p.exchange && *p.routing_key && p.accepted_us >= 0);
        MUST(p.body >= json && p.body + p.body_len <= json + size && *p.body == '{');
        MUST(!*p.traceparent || trace_parse(p.traceparent, &trace));
        MUST(!*p.tracestate || trace_state_ok(p.tracestate, strlen(p.tracestate)));
        if (sound)
            check(&p, root);
    }
    json_decref(root);
    return 0;
}
