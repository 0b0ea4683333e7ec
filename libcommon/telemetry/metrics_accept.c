#include <string.h>
#include <strings.h>

#include "libcommon/telemetry/metrics.h"

struct text {
    const char *at;
    size_t n;
};

struct range {
    struct text type, version;
    int q; /* thousandths */
};

#define BLANKS " \t"

static bool is(struct text t, const char *word)
{
    return t.n == strlen(word) && !strncasecmp(t.at, word, t.n);
}

static const char *take(const char *p, const char *until, struct text *t)
{
    *t = (struct text){p, strcspn(p, until)};
    return p + t->n;
}

/* 0, 0.8, 1.000 as thousandths; anything else is a range that is not wanted. */
static int quality(struct text t)
{
    int q = 0;

    if (!t.n || t.n > 5 || (t.at[0] != '0' && t.at[0] != '1') || (t.n > 1 && t.at[1] != '.'))
        return 0;
    for (size_t i = 0; i < 5; i++) {
        char c = i < t.n ? t.at[i] : '0';

        if (i == 1)
            continue;
        if (c < '0' || c > '9')
            return 0;
        q = q * 10 + c - '0';
    }
    return q > 1000 ? 0 : q;
}

static const char *take_value(const char *p, struct text *value)
{
    if (*p != '"')
        return take(p, BLANKS ";,", value);
    p = take(p + 1, "\"", value);
    return *p ? p + 1 : p;
}

/* After a media type: its parameters, up to the comma. */
static const char *take_parameters(const char *p, struct range *r)
{
    struct text name;
    struct text value;

    for (p += strspn(p, BLANKS); *p == ';'; p += strspn(p, BLANKS)) {
        p += 1 + strspn(p + 1, BLANKS);
        p = take(p, BLANKS "=;,", &name);
        if (*p != '=')
            continue;
        p = take_value(p + 1, &value);
        if (is(name, "q"))
            r->q = quality(value);
        else if (is(name, "version"))
            r->version = value;
    }
    return p + strcspn(p, ",");
}

enum metrics_format metrics_format_for(const char *accept)
{
    static const char *const ranges[] = {"*/*", "text/*", "text/plain"};
    int wanted = 0;
    int plain = 0;
    int specific = -1; /* which of the ranges plain comes from */

    for (const char *p = accept ? accept : ""; *p; p += *p == ',') {
        struct range r = {.q = 1000};

        p = take(p + strspn(p, BLANKS), BLANKS ";,", &r.type);
        p = take_parameters(p, &r);
        if (is(r.type, "application/openmetrics-text") &&
            (!r.version.n || is(r.version, "1.0.0")) && r.q > wanted)
            wanted = r.q;
        for (int i = 0; i < 3; i++) {
            if (is(r.type, ranges[i]) && i >= specific) {
                specific = i;
                plain = r.q;
            }
        }
    }
    return wanted && wanted >= plain ? METRICS_OPENMETRICS : METRICS_PLAIN;
}

const char *metrics_content_type(enum metrics_format format)
{
    return format == METRICS_OPENMETRICS
               ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
               : "text/plain; version=0.0.4; charset=utf-8";
}
