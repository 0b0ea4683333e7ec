#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "libcommon/base/must.h"
#include "libcommon/base/utf8.h"
#include "libcommon/net/otlp_internal.h"

#define GRPC_PATH "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
#define HTTP_PATH "/v1/traces"
#define VALUE_MAX 8192

static bool check_endpoint(const char *value, char *why, size_t size);
static bool check_pairs(const char *value, char *why, size_t size);
static bool check_headers(const char *value, char *why, size_t size);
static bool check_ratio(const char *value, char *why, size_t size);
static bool check_file(const char *value, char *why, size_t size);

/* A setting for all signals and the same for traces. */
#define CHOICE_ROWS(field, name, choices, help)                                                  \
    SETTING_CHOICE_ROW(otlp_settings, all.field, "OTEL_EXPORTER_OTLP_" name, "", choices, help), \
        SETTING_CHOICE_ROW(otlp_settings, traces.field, "OTEL_EXPORTER_OTLP_TRACES_" name, "",   \
                           choices, SAME)
#define TEXT_ROWS(field, kind, name, longest, check, help)                                         \
    SETTING_TEXT_ROW(otlp_settings, all.field, kind, "OTEL_EXPORTER_OTLP_" name, "", longest,      \
                     check, help),                                                                 \
        SETTING_TEXT_ROW(otlp_settings, traces.field, kind, "OTEL_EXPORTER_OTLP_TRACES_" name, "", \
                         longest, check, SAME)
#define SAME "The same for traces; wins."

const struct setting otlp_settings_rows[] = {
    SETTING_BOOL_ROW(otlp_settings, disabled, "OTEL_SDK_DISABLED", "false",
                     "Switches tracing off, whatever else is set."),
    SETTING_CHOICE_ROW(otlp_settings, exporter, "OTEL_TRACES_EXPORTER", "otlp", "otlp none",
                       "Where spans go; none switches tracing off."),
    SETTING_TEXT_ROW(otlp_settings, service_name, SETTING_STRING, "OTEL_SERVICE_NAME", "", 256,
                     NULL, "Name of the service in traces; empty: the program's."),
    SETTING_TEXT_ROW(
        otlp_settings, resource_attributes, SETTING_STRING, "OTEL_RESOURCE_ATTRIBUTES", "",
        VALUE_MAX, check_pairs,
        "More attributes of the service, as key=value,key=value with values percent-encoded."),
    SETTING_CHOICE_ROW(
        otlp_settings, sampler, "OTEL_TRACES_SAMPLER", "parentbased_always_on",
        "always_on always_off traceidratio parentbased_always_on parentbased_always_off "
        "parentbased_traceidratio",
        "Which requests are traced; the parentbased ones keep to what the caller has decided."),
    SETTING_TEXT_ROW(otlp_settings, sampler_arg, SETTING_STRING, "OTEL_TRACES_SAMPLER_ARG", "1.0",
                     32, check_ratio,
                     "Share of requests that the traceidratio samplers take, 0 to 1."),
    SETTING_INT_ROW(otlp_settings, schedule_delay_ms, "OTEL_BSP_SCHEDULE_DELAY", "5000", 10,
                    3600000,
                    "Longest time in milliseconds that a span waits for its batch to fill."),
    SETTING_INT_ROW(
        otlp_settings, export_timeout_ms, "OTEL_BSP_EXPORT_TIMEOUT", "30000", 10, 600000,
        "Longest time in milliseconds to get a batch to the collector, repeats included."),
    SETTING_INT_ROW(otlp_settings, queue_max, "OTEL_BSP_MAX_QUEUE_SIZE", "2048", 2, 65536,
                    "Spans that may wait; further ones are dropped. Each takes 2 KiB."),
    SETTING_INT_ROW(otlp_settings, batch_max, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "512", 1, 8192,
                    "Most spans of a batch."),
    TEXT_ROWS(endpoint, SETTING_URI, "ENDPOINT", 1024, check_endpoint,
              "The collector: a URL, to which v1/traces is added, or host:port, which means gRPC. "
              "Empty: tracing is off. For traces: a URL that is used as it is."),
    CHOICE_ROWS(protocol, "PROTOCOL", "grpc http/protobuf",
                "How to speak to it; empty: http/protobuf to a URL, grpc to host:port."),
    CHOICE_ROWS(insecure, "INSECURE", "true false",
                "Whether host:port is spoken to without TLS; a URL's scheme says it."),
    TEXT_ROWS(headers, SETTING_SECRET, "HEADERS", VALUE_MAX, check_headers,
              "Headers of each request, as name=value,name=value with values percent-encoded."),
    CHOICE_ROWS(compression, "COMPRESSION", "gzip none", "Compression of requests; empty: none."),
    SETTING_INT_ROW(otlp_settings, all.timeout_ms, "OTEL_EXPORTER_OTLP_TIMEOUT", "10000", 10,
                    600000, "Longest time in milliseconds of one request to the collector."),
    SETTING_INT_ROW(otlp_settings, traces.timeout_ms, "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "0", 0,
                    600000, "The same for traces; 0: as the other."),
    TEXT_ROWS(certificate, SETTING_STRING, "CERTIFICATE", 0, check_file,
              "File of the authorities that the collector's certificate is checked against; empty: "
              "the system's."),
    TEXT_ROWS(client_certificate, SETTING_STRING, "CLIENT_CERTIFICATE", 0, check_file,
              "File of the certificate shown to the collector."),
    TEXT_ROWS(client_key, SETTING_STRING, "CLIENT_KEY", 0, check_file,
              "File of that certificate's key."),
    SETTINGS_END};

/* ---- key=value lists ---- */

static bool is_key(const char *s)
{
    if (!*s)
        return false;
    for (; *s; s++) /* tchar of RFC 9110 section 5.6.2, as header names and baggage keys have it */
        if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                    "!#$%&'*+-.^_`|~",
                    *s))
            return false;
    return true;
}

static int hex_value(char c)
{
    static const char digits[] = "0123456789abcdef";
    const char *at = c ? strchr(digits, c | 0x20) : NULL;

    return at ? (int)(at - digits) : -1;
}

/* In place. What comes out must be fit for a header line. */
static bool decode(char *s)
{
    char *out = s;
    const char *start = s;

    for (; *s; s++, out++) {
        *out = *s;
        if (*s == '%') {
            int high = hex_value(s[1]);
            int low = high < 0 ? -1 : hex_value(s[2]);

            if (low < 0)
                return false;
            *out = (char)(high << 4 | low);
            s += 2;
        }
        if ((unsigned char)*out < 0x20 || *out == 0x7f)
            return false;
    }
    *out = '\0';
    return utf8_ok(start, (size_t)(out - start));
}

static char *trim(char *s)
{
    size_t n;

    s += strspn(s, " \t");
    n = strlen(s);
    while (n && strchr(" \t", s[n - 1]))
        s[--n] = '\0';
    return s;
}

static bool take_pair(struct otlp_pairs *out, char *member, char *why, size_t size)
{
    char *equals = strchr(member, '=');
    char *key = member;
    char *value;

    if (!*trim(member)) /* "a=1,,b=2," */
        return true;
    if (!equals) {
        snprintf(why, size, "must be key=value pairs, separated by commas");
        return false;
    }
    *equals = '\0';
    key = trim(key);
    value = trim(equals + 1);
    if (!is_key(key)) {
        snprintf(why, size, "has a key that is empty or holds a character it must not");
        return false;
    }
    if (!decode(value)) {
        snprintf(why, size, "has a value that is not clean percent-encoded text");
        return false;
    }
    if (out->n == OTLP_PAIRS_MAX) {
        snprintf(why, size, "must have at most %d pairs", OTLP_PAIRS_MAX);
        return false;
    }
    out->at[out->n].key = key;
    out->at[out->n++].value = value;
    return true;
}

bool otlp_pairs_parse(const char *text, struct otlp_pairs *out, char *why, size_t size)
{
    char *rest;
    char *member;

    *out = (struct otlp_pairs){.text = must_strdup(text), .size = strlen(text)};
    rest = out->text;
    while ((member = strsep(&rest, ",")) != NULL) {
        if (take_pair(out, member, why, size))
            continue;
        otlp_pairs_free(out);
        return false;
    }
    return true;
}

void otlp_pairs_free(struct otlp_pairs *p)
{
    if (p->text)
        explicit_bzero(p->text, p->size);
    free(p->text);
    *p = (struct otlp_pairs){0};
}

static bool check_pairs(const char *value, char *why, size_t size)
{
    struct otlp_pairs pairs;
    bool ok = otlp_pairs_parse(value, &pairs, why, size);

    otlp_pairs_free(&pairs);
    return ok;
}

/* Headers that say how a request is made are ours. */
static bool check_headers(const char *value, char *why, size_t size)
{
    static const char *const ours[] = {
        "content-type",
        "content-length",
        "content-encoding",
        "transfer-encoding",
        "connection",
        "grpc-encoding",
        "te",
        "expect",
    };
    struct otlp_pairs pairs;
    bool ok = otlp_pairs_parse(value, &pairs, why, size);

    for (size_t i = 0; ok && i < pairs.n; i++)
        for (size_t k = 0; ok && k < sizeof(ours) / sizeof(ours[0]); k++)
            ok = strcasecmp(pairs.at[i].key, ours[k]) != 0;
    if (!ok && !*why)
        snprintf(why, size, "must not set headers that describe the body or the connection");
    otlp_pairs_free(&pairs);
    return ok;
}

/* ---- single values ---- */

static bool check_ratio(const char *value, char *why, size_t size)
{
    char *end;
    double ratio = strtod(value, &end);

    if (strspn(value, "0123456789.eE-+") == strlen(value) && !*end && ratio >= 0 && ratio <= 1)
        return true;
    snprintf(why, size, "must be a number from 0 to 1");
    return false;
}

static bool check_file(const char *value, char *why, size_t size)
{
    if (!access(value, R_OK))
        return true;
    snprintf(why, size, "must be a file that can be read");
    return false;
}

static bool is_bare(const char *endpoint)
{
    return !strstr(endpoint, "://");
}

/* The endpoint as a parsed URL, or NULL. */
static CURLU *parse_endpoint(const char *endpoint, bool insecure)
{
    struct buf url = {0};
    char host[256];
    char *fragment = NULL;
    char *scheme = NULL;
    uint16_t port;
    CURLU *u = curl_url();
    bool ok;

    MUST(u != NULL);
    if (is_bare(endpoint))
        buf_puts(&url, insecure ? "http://" : "https://");
    buf_puts(&url, endpoint);
    MUST(!url.failed);
    ok = !is_bare(endpoint) ||
         (settings_split_addr(endpoint, host, sizeof(host), &port) && *host && port);
    ok = ok && !curl_url_set(u, CURLUPART_URL, url.data, CURLU_DISALLOW_USER) &&
         !curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) &&
         (!strcmp(scheme, "http") || !strcmp(scheme, "https")) &&
         curl_url_get(u, CURLUPART_FRAGMENT, &fragment, 0) == CURLUE_NO_FRAGMENT;
    curl_free(scheme);
    curl_free(fragment);
    buf_free(&url);
    if (ok)
        return u;
    curl_url_cleanup(u);
    return NULL;
}

static bool check_endpoint(const char *value, char *why, size_t size)
{
    CURLU *u = parse_endpoint(value, true);

    curl_url_cleanup(u);
    if (!u)
        snprintf(why, size,
                 "must be an http:// or https:// URL without user and fragment, or host:port");
    return u != NULL;
}

/* ---- what they come to ---- */

static const char *pick(const char *traces, const char *all)
{
    return traces && *traces ? traces : all ? all : "";
}

#define PICK(s, field) pick((s)->traces.field, (s)->all.field)

size_t otlp_settings_check(const struct otlp_settings *s, struct buf *errors)
{
    size_t faults = 0;

    if (s->batch_max > s->queue_max) {
        buf_printf(errors,
                   "OTEL_BSP_MAX_EXPORT_BATCH_SIZE=%lld is above OTEL_BSP_MAX_QUEUE_SIZE=%lld\n",
                   (long long)s->batch_max, (long long)s->queue_max);
        faults++;
    }
    if (!*PICK(s, client_certificate) != !*PICK(s, client_key)) {
        buf_puts(errors, "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY "
                         "need each other\n");
        faults++;
    }
    return faults;
}

static char *make_url(const struct otlp_settings *s, const char *endpoint, bool grpc)
{
    CURLU *u = parse_endpoint(endpoint, !strcmp(PICK(s, insecure), "true"));
    bool as_it_is = *s->traces.endpoint && !is_bare(endpoint);
    struct buf path = {0};
    char *given = NULL;
    char *url = NULL;
    char *copy;

    MUST(u && !curl_url_get(u, CURLUPART_PATH, &given, 0));
    if (grpc) {
        buf_puts(&path, GRPC_PATH);
    } else {
        size_t n = strlen(given);

        while (!as_it_is && n && given[n - 1] == '/')
            n--;
        buf_put(&path, given, n);
        if (!as_it_is)
            buf_puts(&path, HTTP_PATH);
    }
    MUST(!path.failed && !curl_url_set(u, CURLUPART_PATH, path.data, 0));
    if (grpc)
        MUST(!curl_url_set(u, CURLUPART_QUERY, NULL, 0));
    MUST(!curl_url_get(u, CURLUPART_URL, &url, 0));
    copy = must_strdup(url);
    curl_free(url);
    curl_free(given);
    curl_url_cleanup(u);
    buf_free(&path);
    return copy;
}

void otlp_target_make(const struct otlp_settings *s, struct otlp_target *out)
{
    const char *endpoint = PICK(s, endpoint);
    const char *protocol = PICK(s, protocol);
    char why[128];

    *out = (struct otlp_target){0};
    if (s->disabled || !*endpoint || strcmp(s->exporter, "otlp") != 0)
        return;
    out->grpc = *protocol ? !strcmp(protocol, "grpc") : is_bare(endpoint);
    out->gzip = !strcmp(PICK(s, compression), "gzip");
    out->url = make_url(s, endpoint, out->grpc);
    out->timeout_ms = s->traces.timeout_ms ? s->traces.timeout_ms : s->all.timeout_ms;
    out->certificate = PICK(s, certificate);
    out->client_certificate = PICK(s, client_certificate);
    out->client_key = PICK(s, client_key);
    MUST(otlp_pairs_parse(PICK(s, headers), &out->headers, why, sizeof(why)));
}

void otlp_target_free(struct otlp_target *t)
{
    free(t->url);
    otlp_pairs_free(&t->headers);
    t->url = NULL;
}

void otlp_sampler(const struct otlp_settings *s, struct tracer_config *config)
{
    const char *name = s->sampler;

    config->parent_based = !strncmp(name, "parentbased_", 12);
    if (config->parent_based)
        name += 12;
    config->ratio = strtod(s->sampler_arg, NULL);
    config->sampler = !strcmp(name, "always_on")    ? TRACER_SAMPLE_ON
                      : !strcmp(name, "always_off") ? TRACER_SAMPLE_OFF
                                                    : TRACER_SAMPLE_RATIO;
}
