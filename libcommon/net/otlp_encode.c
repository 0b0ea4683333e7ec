#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "libcommon/base/must.h"
#include "libcommon/base/random.h"
#include "libcommon/base/utf8.h"
#include "libcommon/net/otlp_internal.h"
#include "libcommon/otlp.pb-c.h"

/* The semantic conventions that the attributes' names follow. */
#define SCHEMA_URL "https://opentelemetry.io/schemas/1.44.0"
#define HAS_IS_REMOTE 0x100
#define IS_REMOTE 0x200
#define RESOURCE_MAX (OTLP_PAIRS_MAX + 6)

struct attr {
    Otlp__KeyValue pair;
    Otlp__AnyValue value;
};

/* All memory of a batch, made once. */
struct span {
    Otlp__Span span;
    Otlp__Status status;
    struct attr attrs[TRACER_ATTRS_MAX];
    Otlp__KeyValue *attr_list[TRACER_ATTRS_MAX];
    Otlp__Link links[TRACER_LINKS_MAX];
    Otlp__Link *link_list[TRACER_LINKS_MAX];
};

struct otlp_encoder {
    size_t batch_max;
    struct span *spans;
    Otlp__Span **span_list;
    /* what every request has around its spans */
    char host[HOST_NAME_MAX + 1];
    char instance[UUID_TEXT_SIZE];
    struct otlp_pairs pairs;
    struct attr resource_attrs[RESOURCE_MAX];
    Otlp__KeyValue *resource_list[RESOURCE_MAX];
    Otlp__Resource resource;
    Otlp__InstrumentationScope scope;
    Otlp__ScopeSpans scope_spans, *scope_spans_list[1];
    Otlp__ResourceSpans resource_spans, *resource_spans_list[1];
    Otlp__ExportTraceServiceRequest request;
};

/* The structures of protobuf-c point to memory that they do not change. */
static char *mutable(const char *s)
{
    union {
        const char *in;
        char *out;
    } u = {.in = s};

    return u.out;
}

static ProtobufCBinaryData bytes(uint8_t *p, size_t n)
{
    return (ProtobufCBinaryData){.len = n, .data = p};
}

static void init_attr(struct attr *a, const char *key)
{
    otlp__key_value__init(&a->pair);
    otlp__any_value__init(&a->value);
    a->pair.key = mutable(key);
    a->pair.value = &a->value;
}

static void set_string(struct attr *a, const char *s)
{
    a->value.value_case = OTLP__ANY_VALUE__VALUE_STRING_VALUE;
    a->value.string_value = mutable(s);
}

/* ---- the resource ---- */

/* What came first under a key stays. */
static struct attr *add_resource(struct otlp_encoder *e, const char *key)
{
    struct attr *a = &e->resource_attrs[e->resource.n_attributes];

    for (size_t i = 0; i < e->resource.n_attributes; i++)
        if (!strcmp(e->resource_list[i]->key, key))
            return NULL;
    MUST(e->resource.n_attributes < RESOURCE_MAX);
    init_attr(a, key);
    e->resource_list[e->resource.n_attributes++] = &a->pair;
    return a;
}

static void add_resource_string(struct otlp_encoder *e, const char *key, const char *value)
{
    struct attr *a = value && *value ? add_resource(e, key) : NULL;

    if (a)
        set_string(a, value);
}

static void build_resource(struct otlp_encoder *e, const struct otlp_settings *s,
                           const char *service)
{
    char why[128];
    struct attr *pid;

    otlp__resource__init(&e->resource);
    e->resource.attributes = e->resource_list;
    MUST(otlp_pairs_parse(s->resource_attributes, &e->pairs, why, sizeof(why)));
    if (gethostname(e->host, sizeof(e->host)) || !utf8_ok(e->host, strnlen(e->host, HOST_NAME_MAX)))
        e->host[0] = '\0';
    e->host[HOST_NAME_MAX] = '\0';
    random_uuid7(e->instance);
    if (utf8_ok(s->service_name, strlen(s->service_name)))
        add_resource_string(e, "service.name", s->service_name);
    for (size_t i = 0; i < e->pairs.n; i++)
        add_resource_string(e, e->pairs.at[i].key, e->pairs.at[i].value);
    add_resource_string(e, "service.name", service);
    add_resource_string(e, "service.version", PROJECT_VERSION);
    add_resource_string(e, "service.instance.id", e->instance);
    add_resource_string(e, "host.name", e->host);
    pid = add_resource(e, "process.pid");
    if (pid) {
        pid->value.value_case = OTLP__ANY_VALUE__VALUE_INT_VALUE;
        pid->value.int_value = getpid();
    }
}

struct otlp_encoder *otlp_encoder_new(const struct otlp_settings *s, const char *service)
{
    struct otlp_encoder *e = must_alloc(1, sizeof(*e));

    e->batch_max = (size_t)s->batch_max;
    e->spans = must_alloc(e->batch_max, sizeof(*e->spans));
    e->span_list = must_alloc(e->batch_max, sizeof(void *));
    build_resource(e, s, service);
    otlp__instrumentation_scope__init(&e->scope);
    e->scope.name = mutable("distributed-messaging-platform");
    e->scope.version = mutable(PROJECT_VERSION);
    otlp__scope_spans__init(&e->scope_spans);
    e->scope_spans.scope = &e->scope;
    e->scope_spans.spans = e->span_list;
    e->scope_spans.schema_url = mutable(SCHEMA_URL);
    e->scope_spans_list[0] = &e->scope_spans;
    otlp__resource_spans__init(&e->resource_spans);
    e->resource_spans.resource = &e->resource;
    e->resource_spans.n_scope_spans = 1;
    e->resource_spans.scope_spans = e->scope_spans_list;
    e->resource_spans.schema_url = mutable(SCHEMA_URL);
    e->resource_spans_list[0] = &e->resource_spans;
    otlp__export_trace_service_request__init(&e->request);
    e->request.n_resource_spans = 1;
    e->request.resource_spans = e->resource_spans_list;
    return e;
}

void otlp_encoder_free(struct otlp_encoder *e)
{
    if (!e)
        return;
    otlp_pairs_free(&e->pairs);
    free(e->spans);
    free(e->span_list);
    free(e);
}

/* ---- spans ---- */

/* A string of the protocol is UTF-8, or the receiver refuses the whole batch. */
static char *text_of(struct tracer_record *r, uint16_t at)
{
    char *s = r->texts + at;

    if (!utf8_ok(s, strlen(s)))
        for (char *c = s; *c; c++)
            if ((unsigned char)*c >= 0x80)
                *c = '?';
    return s;
}

static void set_value(struct attr *a, struct tracer_record *r, const struct tracer_value *v)
{
    init_attr(a, v->key);
    switch (v->type) {
    case TRACER_STR:
        set_string(a, text_of(r, v->v.text));
        break;
    case TRACER_INT:
        a->value.value_case = OTLP__ANY_VALUE__VALUE_INT_VALUE;
        a->value.int_value = v->v.num;
        break;
    default:
        a->value.value_case = OTLP__ANY_VALUE__VALUE_BOOL_VALUE;
        a->value.bool_value = v->v.flag;
    }
}

static void set_links(struct span *s, struct tracer_record *r)
{
    for (size_t i = 0; i < r->link_count; i++) {
        Otlp__Link *link = &s->links[i];

        otlp__link__init(link);
        link->trace_id = bytes(r->links[i].trace_id, sizeof(r->links[i].trace_id));
        link->span_id = bytes(r->links[i].span_id, sizeof(r->links[i].span_id));
        link->flags = r->links[i].flags;
        s->link_list[i] = link;
    }
    s->span.n_links = r->link_count;
    s->span.links = s->link_list;
    s->span.dropped_links_count = r->links_dropped;
}

static void set_span(struct span *s, struct tracer_record *r)
{
    static const uint8_t none[sizeof(r->parent_id)];
    Otlp__Span *out = &s->span;

    otlp__span__init(out);
    out->trace_id = bytes(r->context.trace_id, sizeof(r->context.trace_id));
    out->span_id = bytes(r->context.span_id, sizeof(r->context.span_id));
    if (memcmp(r->parent_id, none, sizeof(none)) != 0)
        out->parent_span_id = bytes(r->parent_id, sizeof(r->parent_id));
    out->trace_state = text_of(r, r->state);
    out->name = text_of(r, r->name);
    out->kind = r->kind;
    out->start_time_unix_nano = (uint64_t)r->start_us * 1000;
    out->end_time_unix_nano = (uint64_t)r->end_us * 1000;
    out->flags = r->context.flags | HAS_IS_REMOTE | (r->parent_remote ? IS_REMOTE : 0u);
    if (r->status != TRACER_UNSET) {
        otlp__status__init(&s->status);
        s->status.code = r->status;
        s->status.message = text_of(r, r->message);
        out->status = &s->status;
    }
    for (size_t i = 0; i < r->attr_count; i++) {
        set_value(&s->attrs[i], r, &r->attrs[i]);
        s->attr_list[i] = &s->attrs[i].pair;
    }
    out->n_attributes = r->attr_count;
    out->attributes = s->attr_list;
    out->dropped_attributes_count = r->attrs_dropped;
    set_links(s, r);
}

size_t otlp_encode(struct otlp_encoder *e, struct buf *out)
{
    struct tracer_record *r;
    size_t n = 0;
    size_t size;

    while (n < e->batch_max && (r = tracer_peek(n)) != NULL) {
        set_span(&e->spans[n], r);
        e->span_list[n] = &e->spans[n].span;
        n++;
    }
    if (!n)
        return 0;
    e->scope_spans.n_spans = n;
    size = otlp__export_trace_service_request__get_packed_size(&e->request);
    if (buf_reserve(out, size)) {
        otlp__export_trace_service_request__pack(&e->request, (uint8_t *)out->data + out->len);
        out->len += size;
    }
    tracer_release(n);
    return n;
}
