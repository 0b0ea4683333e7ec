#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/net/otlp_internal.h"
#include "test/unit/suite.h"

static struct otlp_settings settings;
static const struct settings_group group[] = {{otlp_settings_rows, &settings}};
static struct buf errors;

/* "NAME=value NAME=value", without OTEL_ */
static size_t load(const char *assignments)
{
    char text[1024];
    char *rest = text;
    char *word;
    size_t faults;

    snprintf(text, sizeof(text), "%s", assignments);
    while ((word = strsep(&rest, " ")) != NULL && *word) {
        char *equals = strchr(word, '=');
        char name[128];

        *equals = '\0';
        snprintf(name, sizeof(name), "OTEL_%s", word);
        setenv(name, equals + 1, 1);
    }
    buf_reset(&errors);
    faults = settings_load(group, 1, &errors);
    return faults ? faults : otlp_settings_check(&settings, &errors);
}

static void forget(void)
{
    extern char **environ;

    for (char **e = environ; *e;) {
        char name[128];
        size_t n = strcspn(*e, "=");

        snprintf(name, sizeof(name), "%.*s", (int)n, *e);
        if (strncmp(name, "OTEL_", 5) != 0 || unsetenv(name))
            e++;
    }
    settings_free(group, 1);
    buf_free(&errors);
}

#define BASE "EXPORTER_OTLP_ENDPOINT"
#define TRACES "EXPORTER_OTLP_TRACES_ENDPOINT"
#define INSECURE " EXPORTER_OTLP_INSECURE=true"
#define EXPORT "/opentelemetry.proto.collector.trace.v1.TraceService/Export"

static const struct {
    const char *set;
    const char *url; /* NULL: off */
    bool grpc;
} endpoints[] = {
    {"", NULL, false},
    {BASE "=http://c:4318", "http://c:4318/v1/traces", false},
    {BASE "=http://c:4318/", "http://c:4318/v1/traces", false},
    {BASE "=https://c/a/b", "https://c/a/b/v1/traces", false},
    {BASE "=https://c/a/?t=1", "https://c/a/v1/traces?t=1", false},
    {TRACES "=http://c:4318", "http://c:4318/", false},
    {TRACES "=http://c:4318/x", "http://c:4318/x", false},
    {TRACES "=http://c:4318/x/ " BASE "=http://d", "http://c:4318/x/", false},
    {BASE "=http://c:4317/x EXPORTER_OTLP_PROTOCOL=grpc", "http://c:4317" EXPORT, true},
    {BASE "=https://c:4317 EXPORTER_OTLP_PROTOCOL=http/protobuf "
          "EXPORTER_OTLP_TRACES_PROTOCOL=grpc",
     "https://c:4317" EXPORT, true},
    {BASE "=c:4317", "https://c:4317" EXPORT, true},
    {BASE "=c:4317" INSECURE, "http://c:4317" EXPORT, true},
    {BASE "=[::1]:4317" INSECURE, "http://[::1]:4317" EXPORT, true},
    {TRACES "=c:4317" INSECURE " EXPORTER_OTLP_TRACES_INSECURE=false", "https://c:4317" EXPORT,
     true},
    {BASE "=c:4318 EXPORTER_OTLP_PROTOCOL=http/protobuf" INSECURE, "http://c:4318/v1/traces",
     false},
    {BASE "=https://c" INSECURE, "https://c/v1/traces", false},
    {BASE "=http://c SDK_DISABLED=true", NULL, false},
    {BASE "=http://c TRACES_EXPORTER=none", NULL, false},
    {BASE "= " TRACES "=", NULL, false},
};

START_TEST(endpoints_become_urls)
{
    struct otlp_target t;

    ck_assert_msg(load(endpoints[_i].set) == 0, "%s: %s", endpoints[_i].set, errors.data);
    otlp_target_make(&settings, &t);
    if (endpoints[_i].url) {
        ck_assert_ptr_nonnull(t.url);
        ck_assert_str_eq(t.url, endpoints[_i].url);
        ck_assert_int_eq(t.grpc, endpoints[_i].grpc);
    } else {
        ck_assert_ptr_null(t.url);
    }
    otlp_target_free(&t);
}
END_TEST

static const struct {
    const char *set, *named, *said;
} bad[] = {
    {"TRACES_SAMPLER=sometimes", "OTEL_TRACES_SAMPLER=sometimes", "parentbased_traceidratio"},
    {"TRACES_SAMPLER_ARG=1.5", "OTEL_TRACES_SAMPLER_ARG", "from 0 to 1"},
    {"TRACES_SAMPLER_ARG=nan", "OTEL_TRACES_SAMPLER_ARG", "from 0 to 1"},
    {"TRACES_EXPORTER=zipkin", "OTEL_TRACES_EXPORTER", "otlp none"},
    {"EXPORTER_OTLP_PROTOCOL=http/json", "OTEL_EXPORTER_OTLP_PROTOCOL=http/json",
     "must be one of: grpc http/protobuf"},
    {BASE "=collector", "OTEL_EXPORTER_OTLP_ENDPOINT", "host:port"},
    {BASE "=:4317", "OTEL_EXPORTER_OTLP_ENDPOINT", "host:port"},
    {BASE "=unix:///x", "OTEL_EXPORTER_OTLP_ENDPOINT", "http://"},
    {TRACES "=http://u:p@c/", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT must", "without user"},
    {BASE "=http://c/#f", "OTEL_EXPORTER_OTLP_ENDPOINT", "fragment"},
    {"EXPORTER_OTLP_HEADERS=key", "OTEL_EXPORTER_OTLP_HEADERS must", "key=value"},
    {"EXPORTER_OTLP_HEADERS=k@y=secret", "OTEL_EXPORTER_OTLP_HEADERS has a key", ""},
    {"EXPORTER_OTLP_HEADERS=k=secret%0d%0aHost:x", "OTEL_EXPORTER_OTLP_HEADERS has a value", ""},
    {"EXPORTER_OTLP_HEADERS=k=secret%2", "OTEL_EXPORTER_OTLP_HEADERS has a value", ""},
    {"EXPORTER_OTLP_HEADERS=Content-Type=secret", "OTEL_EXPORTER_OTLP_HEADERS must not", ""},
    {"RESOURCE_ATTRIBUTES=a", "OTEL_RESOURCE_ATTRIBUTES", "key=value"},
    {"RESOURCE_ATTRIBUTES=a=%ff", "OTEL_RESOURCE_ATTRIBUTES", "percent-encoded"},
    {"BSP_MAX_QUEUE_SIZE=100", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE=512 is above", "100"},
    {"EXPORTER_OTLP_CLIENT_KEY=/dev/null", "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "need"},
    {"EXPORTER_OTLP_CERTIFICATE=/nowhere/ca", "OTEL_EXPORTER_OTLP_CERTIFICATE", "can be read"},
};

START_TEST(faults_are_named)
{
    ck_assert_uint_eq(load(bad[_i].set), 1);
    ck_assert_msg(strstr(errors.data, bad[_i].named) && strstr(errors.data, bad[_i].said), "%s",
                  errors.data);
    ck_assert_ptr_null(strstr(errors.data, "secret"));
}
END_TEST

START_TEST(headers_are_secrets)
{
    struct buf shown = {0};

    ck_assert_uint_eq(load("EXPORTER_OTLP_HEADERS=authorization=Bearer%20s3cret"), 0);
    settings_describe(group, 1, &shown);
    ck_assert_ptr_nonnull(strstr(shown.data, "OTEL_EXPORTER_OTLP_HEADERS=***"));
    ck_assert_ptr_null(strstr(shown.data, "s3cret"));
    buf_free(&shown);
}
END_TEST

START_TEST(pairs_are_decoded)
{
    struct otlp_pairs p;
    char why[128];

    ck_assert(otlp_pairs_parse(" a = b%20c%2C , x=1=2%3d,,empty=,\t y=\xc3\xa9;p ", &p, why,
                               sizeof(why)));
    ck_assert_uint_eq(p.n, 4);
    ck_assert_str_eq(p.at[0].key, "a");
    ck_assert_str_eq(p.at[0].value, "b c,");
    ck_assert_str_eq(p.at[1].value, "1=2=");
    ck_assert_str_eq(p.at[2].value, "");
    ck_assert_str_eq(p.at[3].key, "y");
    ck_assert_str_eq(p.at[3].value, "\xc3\xa9;p");
    otlp_pairs_free(&p);
}
END_TEST

START_TEST(what_is_for_traces_wins)
{
    struct otlp_target t;

    ck_assert_uint_eq(load(BASE "=http://c EXPORTER_OTLP_HEADERS=a=1 "
                                "EXPORTER_OTLP_TRACES_HEADERS=b=2 EXPORTER_OTLP_COMPRESSION=none "
                                "EXPORTER_OTLP_TRACES_COMPRESSION=gzip "
                                "EXPORTER_OTLP_TIMEOUT=7000 EXPORTER_OTLP_TRACES_TIMEOUT=600"),
                      0);
    otlp_target_make(&settings, &t);
    ck_assert(t.gzip);
    ck_assert_int_eq(t.timeout_ms, 600);
    ck_assert_uint_eq(t.headers.n, 1);
    ck_assert_str_eq(t.headers.at[0].key, "b");
    otlp_target_free(&t);
}
END_TEST

static const struct {
    const char *set;
    enum tracer_sampler sampler;
    bool parent_based;
    double ratio;
} samplers[] = {
    {"", TRACER_SAMPLE_ON, true, 1},
    {"TRACES_SAMPLER=always_on", TRACER_SAMPLE_ON, false, 1},
    {"TRACES_SAMPLER=always_off", TRACER_SAMPLE_OFF, false, 1},
    {"TRACES_SAMPLER=traceidratio TRACES_SAMPLER_ARG=0.25", TRACER_SAMPLE_RATIO, false, 0.25},
    {"TRACES_SAMPLER=parentbased_always_off", TRACER_SAMPLE_OFF, true, 1},
    {"TRACES_SAMPLER=parentbased_traceidratio TRACES_SAMPLER_ARG=1e-3", TRACER_SAMPLE_RATIO, true,
     0.001},
};

START_TEST(samplers_are_understood)
{
    struct tracer_config c = {0};

    ck_assert_uint_eq(load(samplers[_i].set), 0);
    otlp_sampler(&settings, &c);
    ck_assert_int_eq((int)c.sampler, (int)samplers[_i].sampler);
    ck_assert_int_eq(c.parent_based, samplers[_i].parent_based);
    ck_assert(c.ratio == samplers[_i].ratio);
}
END_TEST

#define COUNT(a) ((int)(sizeof(a) / sizeof((a)[0])))

int main(void)
{
    Suite *s = suite_create("otlp_settings");
    TCase *t = tcase_create("otlp_settings");

    tcase_add_checked_fixture(t, forget, forget);
    tcase_add_loop_test(t, endpoints_become_urls, 0, COUNT(endpoints));
    tcase_add_loop_test(t, faults_are_named, 0, COUNT(bad));
    tcase_add_test(t, headers_are_secrets);
    tcase_add_test(t, pairs_are_decoded);
    tcase_add_test(t, what_is_for_traces_wins);
    tcase_add_loop_test(t, samplers_are_understood, 0, COUNT(samplers));
    suite_add_tcase(s, t);
    return suite_run(s);
}
