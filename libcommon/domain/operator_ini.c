#include "libcommon/domain/operator_ini.h"

#include <ini.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define SECTION_MAX 49 /* libinih's own buffers */
#define KEY_MAX 49

struct reader {
    const char *at, *end;
    const char *name;
    operator_ini_fn *fn;
    void *arg;
    struct buf *errors;
    size_t faults;
    unsigned line;
    char section[SECTION_MAX + 1];
    bool has_key;   /* a line that begins with a blank goes on with it */
    bool continued; /* the line that libinih has */
};

static void fault(struct reader *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void fault(struct reader *r, const char *fmt, ...)
{
    char why[256];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(why, sizeof(why), fmt, ap);
    va_end(ap);
    buf_printf(r->errors, "%s:%u: %s\n", r->name, r->line, why);
    r->faults++;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

/* Of any line that is no comment. */
static bool is_whole(struct reader *r, const char *s, size_t n, size_t room)
{
    for (size_t i = 0; i < n; i++) {
        if (((unsigned char)s[i] < ' ' && s[i] != '\t') || s[i] == '\x7f') {
            fault(r, "a control character");
            return false;
        }
        if (i && s[i] == ';' && is_blank(s[i - 1])) {
            fault(r, "a blank and a semicolon begin a comment, which would cut the line there");
            return false;
        }
    }
    if (n > room) {
        fault(r, "longer than %zu bytes: go on in the next line, which then begins with a blank",
              room);
        return false;
    }
    if (is_blank(s[n - 1])) {
        fault(r, "the blanks at its end would be cut");
        return false;
    }
    return true;
}

static bool take_section(struct reader *r, const char *s, size_t n)
{
    const char *close = memchr(s, ']', n);
    size_t len = close ? (size_t)(close - s) - 1 : 0;

    r->has_key = false;
    if (!close || close + 1 != s + n || !len || len > SECTION_MAX) {
        fault(r, "a section is [name], with at most %d characters and nothing behind it",
              SECTION_MAX);
        return false;
    }
    memcpy(r->section, s + 1, len);
    r->section[len] = '\0';
    r->fn(&(struct operator_ini_item){.section = r->section, .line = r->line}, r->arg);
    return true;
}

static bool is_pair(struct reader *r, const char *s, size_t n)
{
    const char *equals = memchr(s, '=', n);
    size_t len = equals ? (size_t)(equals - s) : 0;

    r->has_key = false;
    while (len && is_blank(s[len - 1]))
        len--;
    if (!len || len > KEY_MAX || memchr(s, ':', len)) {
        fault(r, "neither [section] nor key = value");
        return false;
    }
    r->has_key = true;
    return true;
}

static bool goes_on(struct reader *r, const char *s, size_t n)
{
    size_t blanks = 0;

    while (blanks < n && is_blank(s[blanks]))
        blanks++;
    if (s[blanks] == '#' || s[blanks] == ';') {
        fault(r, "would be taken for a comment: those begin in the first column");
        return false;
    }
    if (!r->has_key) {
        fault(r, "begins with a blank, and there is no value that could go on");
        return false;
    }
    return true;
}

/* Whether libinih may have the line, which is not empty. */
static bool take(struct reader *r, const char *s, size_t n, size_t room)
{
    r->continued = is_blank(*s);
    if (*s == '#' || *s == ';')
        return false;
    if (!is_whole(r, s, n, room)) {
        r->has_key &= r->continued;
        return false;
    }
    if (r->continued)
        return goes_on(r, s, n);
    return *s == '[' ? take_section(r, s, n) : is_pair(r, s, n);
}

static size_t without_blanks(const char *s, size_t n)
{
    size_t i = 0;

    while (i < n && is_blank(s[i]))
        i++;
    return n - i;
}

/* libinih's reader: the next line, or an empty one in place of one that it would misread. */
static char *next_line(char *out, int num, void *stream)
{
    struct reader *r = stream;
    size_t left = (size_t)(r->end - r->at);
    size_t room = num > 3 ? (size_t)num - 3 : 0;
    const char *lf;
    const char *s = r->at;
    size_t n;

    if (!left)
        return NULL;
    lf = memchr(s, '\n', left);
    n = lf ? (size_t)(lf - s) : left;
    r->at += n + (lf != NULL);
    if (!r->line++ && n >= 3 && !memcmp(s, "\xef\xbb\xbf", 3)) {
        s += 3;
        n -= 3;
    }
    if (n && s[n - 1] == '\r')
        n--;
    if (!without_blanks(s, n) || !take(r, s, n, room))
        n = 0;
    memcpy(out, s, n);
    out[n] = '\n';
    out[n + 1] = '\0';
    return out;
}

static int on_pair(void *user, const char *section, const char *key, const char *value)
{
    struct reader *r = user;

    r->fn(&(struct operator_ini_item){section, key, value, r->line, r->continued}, r->arg);
    return 1;
}

size_t operator_ini_read(const char *text, size_t n, const char *name, operator_ini_fn *fn,
                         void *arg, struct buf *errors)
{
    struct reader r = {
        .at = text, .end = text + n, .name = name, .fn = fn, .arg = arg, .errors = errors};
    int line;

    if (n > OPERATOR_INI_BYTES_MAX) {
        buf_printf(errors, "%s: more than %d bytes\n", name, OPERATOR_INI_BYTES_MAX);
        return 1;
    }
    line = ini_parse_stream(next_line, &r, on_pair, &r);
    if (line) { /* it should have been found above */
        r.line = line > 0 ? (unsigned)line : 0;
        fault(&r, "cannot be read");
    }
    return r.faults;
}
