#include "libcommon/base/trace.h"

#include <stdio.h>
#include <string.h>

#include "libcommon/base/buf.h"
#include "libcommon/base/random.h"

static bool any(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i])
            return true;
    return false;
}

bool trace_valid(const struct trace_context *t)
{
    return any(t->trace_id, sizeof(t->trace_id)) && any(t->span_id, sizeof(t->span_id));
}

/* The value of a hexadecimal digit, and one: upper case is not allowed. */
static const uint8_t digit_values[256] = {
    ['0'] = 1, ['1'] = 2,  ['2'] = 3,  ['3'] = 4,  ['4'] = 5,  ['5'] = 6,  ['6'] = 7,  ['7'] = 8,
    ['8'] = 9, ['9'] = 10, ['a'] = 11, ['b'] = 12, ['c'] = 13, ['d'] = 14, ['e'] = 15, ['f'] = 16,
};

static bool parse_hex(const char *s, uint8_t *out, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        uint8_t high = digit_values[(unsigned char)s[2 * i]];
        uint8_t low = digit_values[(unsigned char)s[2 * i + 1]];

        if (!high || !low)
            return false;
        out[i] = (uint8_t)((high - 1) << 4 | (low - 1));
    }
    return true;
}

bool trace_parse(const char *s, struct trace_context *out)
{
    struct trace_context t = {{0}, {0}, 0};
    size_t len = strlen(s);
    uint8_t version = 0;

    if (len < 55 || s[2] != '-' || s[35] != '-' || s[52] != '-')
        return false;
    if (!parse_hex(s, &version, 1) || version == 0xff)
        return false;
    if (version == 0 ? len != 55 : len > 55 && s[55] != '-')
        return false;
    if (!parse_hex(s + 3, t.trace_id, 16) || !parse_hex(s + 36, t.span_id, 8) ||
        !parse_hex(s + 53, &t.flags, 1) || !trace_valid(&t))
        return false;
    t.flags &= 0x03; /* the bits version 00 and its successor define */
    *out = t;
    return true;
}

void trace_format(const struct trace_context *t, char out[TRACE_PARENT_SIZE])
{
    static const char digits[] = "0123456789abcdef";
    size_t at = 0;

    memcpy(out, "00-", 3);
    at = 3;
    for (size_t i = 0; i < 16; i++) {
        out[at++] = digits[t->trace_id[i] >> 4];
        out[at++] = digits[t->trace_id[i] & 15];
    }
    out[at++] = '-';
    for (size_t i = 0; i < 8; i++) {
        out[at++] = digits[t->span_id[i] >> 4];
        out[at++] = digits[t->span_id[i] & 15];
    }
    out[at++] = '-';
    out[at++] = digits[t->flags >> 4];
    out[at++] = digits[t->flags & 15];
    out[at] = '\0';
}

void trace_root(struct trace_context *out, bool sampled)
{
    do {
        random_bytes(out->trace_id, sizeof(out->trace_id));
        random_bytes(out->span_id, sizeof(out->span_id));
    } while (!trace_valid(out));
    out->flags = (uint8_t)(0x02 | (sampled ? TRACE_SAMPLED : 0));
}

void trace_child(const struct trace_context *parent, struct trace_context *out)
{
    *out = *parent;
    do
        random_bytes(out->span_id, sizeof(out->span_id));
    while (!trace_valid(out));
}

bool trace_state_ok(const char *s, size_t n)
{
    size_t members = 1;

    if (n == 0 || n > TRACE_STATE_MAX)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (s[i] == ',')
            members++;
        if ((s[i] < 0x20 || s[i] > 0x7e) && s[i] != '\t')
            return false;
    }
    return members <= 32;
}
