#include "libcommon/domain/operator_exchange.h"

#include <string.h>

#include "libcommon/base/utf8.h"

#define MILLION 1000000
#define DECIMALS 6

/* ---- requests ---- */

typedef void put_fn(const struct operator_template *t, const struct operator_values *values,
                    struct buf *out);

void operator_request_put(const struct operator_config *op, const struct operator_request *request,
                          const struct operator_values *values, bool shown, struct buf *out,
                          struct buf *body)
{
    put_fn *put = shown ? operator_template_show : operator_template_put;

    buf_puts(out, request->method);
    buf_putc(out, ' ');
    put(&request->target, values, out);
    buf_puts(out, " HTTP/1.1\r\nHost: ");
    buf_puts(out, strstr(op->url, "://") + 3);
    buf_puts(out, "\r\nUser-Agent: msg-consumerd/" PROJECT_VERSION "\r\nAccept: */*\r\n");
    put(&request->head, values, out);
    if (request->has_body) {
        put(&request->body, values, body);
        buf_puts(out, "Content-Length: ");
        buf_put_uint(out, body->len);
        buf_puts(out, "\r\n");
    } else if (strcmp(request->method, "GET") != 0) {
        buf_puts(out, "Content-Length: 0\r\n");
    }
    buf_puts(out, "\r\n");
    buf_put(out, body->data, body->len);
    out->failed |= body->failed;
}

/* ---- answers ---- */

bool operator_id_ok(const char *s, size_t n)
{
    if (!n || n > PROVIDER_ID_MAX || !utf8_ok(s, n))
        return false;
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)s[i] < ' ' || s[i] == '\x7f')
            return false;
    return true;
}

static bool take_id(const struct operator_spot *spot, struct operator_answer *a,
                    char id[PROVIDER_ID_MAX + 1])
{
    char scratch[JSON_SCALAR_MAX];
    const char *text = spot ? operator_spot_get(spot, a, scratch) : NULL;
    size_t n = text ? strlen(text) : 0;

    id[0] = '\0';
    if (!n || !operator_id_ok(text, n))
        return false;
    memcpy(id, text, n + 1);
    return true;
}

/* A decimal number in millionths; what is finer is cut. */
static bool read_decimal(const char *s, int64_t *out)
{
    bool negative = *s == '-';
    int decimals = -1; /* no point yet */
    int64_t value = 0;

    s += negative;
    if (*s < '0' || *s > '9')
        return false;
    for (; *s; s++) {
        bool digit = *s >= '0' && *s <= '9';

        if ((!digit && (*s != '.' || decimals >= 0)) || value > INT64_MAX / 100 / MILLION)
            return false;
        if (!digit) {
            decimals = 0;
        } else if (decimals < DECIMALS) {
            value = value * 10 + (*s - '0');
            decimals += decimals >= 0;
        }
    }
    for (int i = decimals < 0 ? 0 : decimals; i < DECIMALS; i++)
        value *= 10;
    *out = negative ? -value : value;
    return true;
}

static int64_t number_at(const struct operator_spot *spot, struct operator_answer *a)
{
    char scratch[JSON_SCALAR_MAX];
    const char *text = spot ? operator_spot_get(spot, a, scratch) : NULL;
    int64_t millionths;

    return text && read_decimal(text, &millionths) ? millionths : OPERATOR_NO_NUMBER;
}

static int64_t whole(int64_t millionths)
{
    return millionths == OPERATOR_NO_NUMBER ? millionths : millionths / MILLION;
}

/* A rule that says unfit, and not why. */
static enum unfit reason_of(int status)
{
    enum unfit reason;

    verdict_of_status(status, &reason);
    return reason == UNFIT_REASONS ? UNFIT_FORBIDDEN : reason;
}

static const struct operator_rule *rule_for(const struct operator_config *op,
                                            struct operator_answer *a)
{
    for (size_t i = 0; i < op->rule_count; i++) {
        const struct operator_rule *r = &op->rules[i];

        if ((a->whole || r->verdict != VERDICT_ACCEPTED) &&
            operator_condition_holds(r->condition, a))
            return r;
    }
    return NULL;
}

static bool is_success(int status)
{
    return status >= 200 && status < 300;
}

void operator_judge(const struct operator_config *op, struct operator_answer *a,
                    struct operator_judgement *out)
{
    const struct operator_rule *rule = a->status ? rule_for(op, a) : NULL;
    bool has_id = take_id(op->id, a, out->id);

    if (rule) {
        out->verdict = rule->verdict;
        out->unfit = rule->verdict != VERDICT_UNFIT ? UNFIT_REASONS
                     : rule->unfit != UNFIT_REASONS ? rule->unfit
                                                    : reason_of(a->status);
    } else {
        out->verdict = verdict_of_status(a->status, &out->unfit);
        if (is_success(a->status) && has_id)
            out->verdict = VERDICT_ACCEPTED;
    }
    out->line = rule ? rule->line : 0;
    if (out->verdict != VERDICT_ACCEPTED)
        out->id[0] = '\0';
    out->parts = whole(number_at(op->parts, a));
    out->cost_millionths = number_at(op->cost, a);
    out->remaining = whole(number_at(op->remaining, a));
}

enum lookup_answer operator_judge_lookup(const struct operator_config *op,
                                         struct operator_answer *a, char id[PROVIDER_ID_MAX + 1])
{
    enum lookup_answer answer = a->status == 404 ? LOOKUP_NOT_FOUND : LOOKUP_UNREACHABLE;

    id[0] = '\0';
    for (size_t i = 0; i < op->lookup_rule_count; i++) {
        const struct operator_lookup_rule *r = &op->lookup_rules[i];

        if (a->status && (a->whole || r->answer != LOOKUP_FOUND) &&
            operator_condition_holds(r->condition, a)) {
            answer = r->answer;
            break;
        }
    }
    if (answer == LOOKUP_FOUND)
        take_id(op->lookup_id, a, id);
    return answer;
}
