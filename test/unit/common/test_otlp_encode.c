#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "libcommon/net/otlp_internal.h"
#include "libcommon/otlp.pb-c.h"
#include "test/unit/suite.h"

static struct otlp_encoder *encoder;
static struct buf encoded;
static Otlp__ExportTraceServiceRequest *request;

static void ignore(void *arg)
{
    (void)arg;
}

static void start(const char *service_name, const char *resource_attributes)
{
    static char service[64];
    static char attributes[256];
    const struct tracer_config config = {.queue_max = 8, .wake_at = 8, .wake = ignore};
    struct otlp_settings s = {
        .service_name = service, .resource_attributes = attributes, .batch_max = 3};

    snprintf(service, sizeof(service), "%s", service_name);
    snprintf(attributes, sizeof(attributes), "%s", resource_attributes);
    tracer_register();
    tracer_start(&config);
    encoder = otlp_encoder_new(&s, "the-program");
}

static void stop(void)
{
    if (request)
        otlp__export_trace_service_request__free_unpacked(request, NULL);
    request = NULL;
    otlp_encoder_free(encoder);
    encoder = NULL;
    tracer_stop();
    buf_free(&encoded);
}

static const Otlp__ScopeSpans *read_back(size_t spans)
{
    ck_assert_uint_eq(otlp_encode(encoder, &encoded), spans);
    if (request)
        otlp__export_trace_service_request__free_unpacked(request, NULL);
    request = otlp__export_trace_service_request__unpack(NULL, encoded.len,
                                                         (const uint8_t *)encoded.data);
    ck_assert_ptr_nonnull(request);
    ck_assert_uint_eq(request->n_resource_spans, 1);
    ck_assert_uint_eq(request->resource_spans[0]->n_scope_spans, 1);
    ck_assert_uint_eq(request->resource_spans[0]->scope_spans[0]->n_spans, spans);
    buf_reset(&encoded);
    return request->resource_spans[0]->scope_spans[0];
}

static const Otlp__AnyValue *value_of(Otlp__KeyValue *const *list, size_t n, const char *key)
{
    const Otlp__AnyValue *found = NULL;

    for (size_t i = 0; i < n; i++) {
        if (strcmp(list[i]->key, key) != 0)
            continue;
        ck_assert_ptr_null(found);
        found = list[i]->value;
    }
    return found;
}

static const char *resource(const char *key)
{
    const Otlp__Resource *r = request->resource_spans[0]->resource;
    const Otlp__AnyValue *v = value_of(r->attributes, r->n_attributes, key);

    return v ? v->string_value : NULL;
}

static void record(int64_t start_us)
{
    struct trace_context t = {{1}, {2}, 1};

    tracer_span(&(struct tracer_span){
        .context = &t, .kind = TRACER_INTERNAL, .name = "n", .start_us = start_us});
}

START_TEST(a_span_in_full)
{
    struct trace_context own = {{0xab, 1}, {0xcd, 2}, 3};
    struct trace_context parent = {{0xab, 1}, {0xef, 3}, 3};
    struct trace_context link = {{0x77}, {0x88}, 1};
    const struct tracer_attr attrs[] = {T_STR("s", "caf\xc3\xa9"), T_STR("bad", "a\xff!"),
                                        T_INT("i", -1), T_BOOL("b", false)};
    const Otlp__Span *s;

    start("", "");
    tracer_span(&(struct tracer_span){.context = &own,
                                      .parent = &parent,
                                      .parent_remote = true,
                                      .state = "k=v",
                                      .kind = TRACER_PRODUCER,
                                      .name = "publish",
                                      .start_us = 1700000000000001,
                                      .end_us = 1700000000000003,
                                      .status = TRACER_ERROR,
                                      .message = "broken",
                                      .attrs = attrs,
                                      .attr_count = 4,
                                      .links = &link,
                                      .link_count = 1});
    s = read_back(1)->spans[0];
    ck_assert_uint_eq(s->trace_id.len, 16);
    ck_assert_mem_eq(s->trace_id.data, own.trace_id, 16);
    ck_assert_uint_eq(s->span_id.len, 8);
    ck_assert_mem_eq(s->span_id.data, own.span_id, 8);
    ck_assert_uint_eq(s->parent_span_id.len, 8);
    ck_assert_mem_eq(s->parent_span_id.data, parent.span_id, 8);
    ck_assert_str_eq(s->trace_state, "k=v");
    ck_assert_str_eq(s->name, "publish");
    ck_assert_int_eq(s->kind, 4);
    ck_assert_uint_eq(s->start_time_unix_nano, 1700000000000001000);
    ck_assert_uint_eq(s->end_time_unix_nano, 1700000000000003000);
    ck_assert_uint_eq(s->flags, 0x303);
    ck_assert_int_eq(s->status->code, 2);
    ck_assert_str_eq(s->status->message, "broken");
    ck_assert_uint_eq(s->n_attributes, 4);
    ck_assert_str_eq(value_of(s->attributes, 4, "s")->string_value, "caf\xc3\xa9");
    ck_assert_str_eq(value_of(s->attributes, 4, "bad")->string_value, "a?!");
    ck_assert_int_eq(value_of(s->attributes, 4, "i")->int_value, -1);
    ck_assert_int_eq((int)value_of(s->attributes, 4, "b")->value_case,
                     OTLP__ANY_VALUE__VALUE_BOOL_VALUE);
    ck_assert_uint_eq(s->n_links, 1);
    ck_assert_mem_eq(s->links[0]->trace_id.data, link.trace_id, 16);
    ck_assert_mem_eq(s->links[0]->span_id.data, link.span_id, 8);
}
END_TEST

START_TEST(a_root_has_no_parent_and_no_status)
{
    const Otlp__Span *s;

    start("", "");
    record(5);
    s = read_back(1)->spans[0];
    ck_assert_uint_eq(s->parent_span_id.len, 0);
    ck_assert_ptr_null(s->status);
    ck_assert_uint_eq(s->flags, 0x101);
}
END_TEST

START_TEST(batches_follow_each_other)
{
    start("", "");
    for (int i = 0; i < 7; i++)
        record(i);
    for (size_t batch = 0; batch < 3; batch++) {
        size_t n = batch < 2 ? 3 : 1;
        const Otlp__ScopeSpans *scope = read_back(n);

        for (size_t i = 0; i < n; i++)
            ck_assert_uint_eq(scope->spans[i]->start_time_unix_nano, (batch * 3 + i) * 1000);
    }
    ck_assert_uint_eq(otlp_encode(encoder, &encoded), 0);
    ck_assert_uint_eq(encoded.len, 0);
}
END_TEST

START_TEST(the_resource_says_who_speaks)
{
    const Otlp__Resource *r;

    start("", "");
    record(0);
    read_back(1);
    r = request->resource_spans[0]->resource;
    ck_assert_str_eq(resource("service.name"), "the-program");
    ck_assert_str_eq(resource("service.version"), PROJECT_VERSION);
    ck_assert_uint_eq(strlen(resource("service.instance.id")), 36);
    ck_assert_ptr_nonnull(resource("host.name"));
    ck_assert_int_eq(value_of(r->attributes, r->n_attributes, "process.pid")->int_value, getpid());
    ck_assert_str_eq(request->resource_spans[0]->schema_url,
                     "https://opentelemetry.io/schemas/1.44.0");
}
END_TEST

START_TEST(the_settings_say_it_differently)
{
    static const char attributes[] =
        "service.name=one,deployment.environment.name=test%20bed,host.name=h";

    start("", attributes);
    record(0);
    read_back(1);
    ck_assert_str_eq(resource("service.name"), "one");
    ck_assert_str_eq(resource("deployment.environment.name"), "test bed");
    ck_assert_str_eq(resource("host.name"), "h");
    stop();
    start("two", attributes);
    record(0);
    read_back(1);
    ck_assert_str_eq(resource("service.name"), "two");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("otlp_encode");
    TCase *t = tcase_create("otlp_encode");

    tcase_add_checked_fixture(t, NULL, stop);
    tcase_add_test(t, a_span_in_full);
    tcase_add_test(t, a_root_has_no_parent_and_no_status);
    tcase_add_test(t, batches_follow_each_other);
    tcase_add_test(t, the_resource_says_who_speaks);
    tcase_add_test(t, the_settings_say_it_differently);
    suite_add_tcase(s, t);
    return suite_run(s);
}
