#include "libcommon/domain/operator_rule.h"

#include <errno.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base/json_path.h"
#include "libcommon/base/must.h"

#define TESTS_MAX 8
#define VALUES_MAX 64
#define VALUE_MAX 200

/* ---- answers ---- */

void operator_answer_begin(struct operator_answer *a, int status, const char *body, size_t len,
                           bool whole)
{
    *a = (struct operator_answer){
        .status = status, .body = body ? body : "", .len = body ? len : 0, .whole = whole};
}

void operator_answer_end(struct operator_answer *a)
{
    json_decref(a->json);
    a->json = NULL;
}

const json_t *operator_answer_json(struct operator_answer *a)
{
    if (!a->json_read && a->whole && a->len && !memchr(a->body, '\0', a->len))
        a->json = json_read(a->body, a->len, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, NULL);
    a->json_read = true;
    return a->json;
}

/* ---- regexes ---- */

struct pattern {
    regex_t regex;
    bool made;
};

/* Follows groups: whether the atom that ended last holds a repetition, and each open group. */
struct nesting {
    bool repeats;
    bool group[OPERATOR_REGEX_MAX + 1];
    size_t depth;
};

/* False: a repetition of what repeats already. Compiled, each of those would double what it is
 * behind, and matched, try every way to share the text out. */
static bool follow(struct nesting *n, char c)
{
    if (c == '+' || c == '*' || c == '?') {
        if (n->repeats)
            return false;
        n->repeats = n->group[n->depth] = true;
    } else if (c == '(') {
        n->group[++n->depth] = n->repeats = false;
    } else if (c == ')' && n->depth) {
        n->repeats = n->group[n->depth--];
        n->group[n->depth] |= n->repeats;
    } else {
        n->repeats = false;
    }
    return true;
}

/* Of [:digit:] and its kind within a set, up to its bracket that closes; 0: there is none. */
static size_t class_length(const char *text)
{
    char end[] = {text[0] ? text[1] : '\0', ']', '\0'};
    const char *at;

    if (*text != '[' || (*end != ':' && *end != '.' && *end != '='))
        return 0;
    at = strstr(text + 2, end);
    return at ? (size_t)(at - text) + 2 : 0;
}

/* What could cost without bound, or means something else in another library, is not taken. */
static bool is_bounded(const char *text, char *why, size_t size)
{
    struct nesting nesting = {0};

    if (strlen(text) > OPERATOR_REGEX_MAX) {
        snprintf(why, size, "has a regex of more than %d bytes", OPERATOR_REGEX_MAX);
        return false;
    }
    for (bool set = false; *text; text++) {
        if (!set && *text == '\\' && text[1]) {
            if ((text[1] >= '0' && text[1] <= '9') || strchr("wWsSbB<>'`", text[1])) {
                snprintf(why, size, "has a regex with \\%c, which is not POSIX extended", text[1]);
                return false;
            }
            follow(&nesting, 'x');
            text++;
            continue;
        }
        if (!set && *text == '{') {
            snprintf(why, size, "has a regex with a repetition count; use + or *");
            return false;
        }
        if (!set && !follow(&nesting, *text)) {
            snprintf(why, size, "has a regex that repeats what repeats already");
            return false;
        }
        if (set)
            text += class_length(text);
        if (!*text)
            break;
        if (!set && *text == '[') {
            set = true;
            text += text[1] == '^';
            text += text[1] == ']';
        } else if (*text == ']') {
            set = false;
        }
    }
    return true;
}

static bool pattern_make(struct pattern *p, const char *text, char *why, size_t size)
{
    int code;

    p->made = false;
    if (!*text) {
        snprintf(why, size, "has a regex without anything in it");
        return false;
    }
    if (!is_bounded(text, why, size))
        return false;
    code = regcomp(&p->regex, text, REG_EXTENDED);
    if (code) {
        char said[80];

        regerror(code, &p->regex, said, sizeof(said));
        snprintf(why, size, "has a regex that is none: %s", said);
        return false;
    }
    p->made = true;
    return true;
}

static void pattern_free(struct pattern *p)
{
    if (p->made)
        regfree(&p->regex);
    p->made = false;
}

static bool pattern_find(const struct pattern *p, const char *s, size_t n, regmatch_t found[2])
{
    found[0].rm_so = 0;
    found[0].rm_eo = (regoff_t)(n < OPERATOR_REGEX_BYTES ? n : OPERATOR_REGEX_BYTES);
    return !regexec(&p->regex, s, 2, found, REG_STARTEND);
}

/* ---- conditions ---- */

enum subject { SUBJECT_STATUS, SUBJECT_BODY, SUBJECT_JSON };
enum comparison { COMPARE_EQUAL, COMPARE_DIFFER, COMPARE_IN, COMPARE_MATCH, COMPARE_EXISTS };

struct value {
    char *text; /* NULL: a range */
    int64_t low, high;
};

struct test {
    enum subject subject;
    enum comparison comparison;
    bool negated;
    struct json_path path;
    struct pattern pattern;
    struct value *values;
    size_t value_count;
};

struct operator_condition {
    struct test *tests;
    size_t count;
};

/* The rest of a condition's text. */
struct scanner {
    const char *at;
    char *why;
    size_t size;
};

static void skip_blanks(struct scanner *s)
{
    s->at += strspn(s->at, " \t");
}

static size_t word_length(const struct scanner *s)
{
    return strcspn(s->at, " \t,");
}

static bool take_word(struct scanner *s, const char *word)
{
    size_t n = strlen(word);

    skip_blanks(s);
    if (word_length(s) != n || memcmp(s->at, word, n) != 0)
        return false;
    s->at += n;
    return true;
}

/* In quotes: a quote and a backslash in them are written with a backslash before. */
static bool take_quoted(struct scanner *s, char out[VALUE_MAX + 1])
{
    size_t n = 0;

    for (s->at++; *s->at && *s->at != '"'; s->at++) {
        if (*s->at == '\\' && (s->at[1] == '"' || s->at[1] == '\\'))
            s->at++;
        if (n == VALUE_MAX) {
            snprintf(s->why, s->size, "has a text of more than %d bytes", VALUE_MAX);
            return false;
        }
        out[n++] = *s->at;
    }
    out[n] = '\0';
    if (*s->at != '"') {
        snprintf(s->why, s->size, "has a text without its second quote");
        return false;
    }
    s->at++;
    return true;
}

/* A whole number; false: it is none, or has more than 18 digits. */
static bool read_number(const char *text, size_t n, int64_t *out)
{
    int64_t value = 0;
    size_t sign = n && *text == '-';

    if (n == sign || n - sign > 18)
        return false;
    for (size_t i = sign; i < n; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        value = value * 10 + (text[i] - '0');
    }
    *out = sign ? -value : value;
    return true;
}

static bool read_range(const char *text, size_t n, struct value *out)
{
    const char *dash = n > 1 ? memchr(text + 1, '-', n - 1) : NULL;
    size_t low = dash ? (size_t)(dash - text) : 0;

    return dash && read_number(text, low, &out->low) &&
           read_number(dash + 1, n - low - 1, &out->high) && out->low <= out->high;
}

/* The test owns it afterwards. */
static bool add_value(struct scanner *s, struct test *t, struct value *v)
{
    if (t->value_count == VALUES_MAX) {
        snprintf(s->why, s->size, "compares with more than %d values", VALUES_MAX);
        free(v->text);
        return false;
    }
    t->values = realloc(t->values, (t->value_count + 1) * sizeof(*t->values));
    MUST(t->values != NULL);
    t->values[t->value_count++] = *v;
    return true;
}

static bool take_value(struct scanner *s, struct test *t)
{
    struct value v = {0};
    char text[VALUE_MAX + 1];
    size_t n;

    skip_blanks(s);
    if (*s->at == '"') {
        if (!take_quoted(s, text))
            return false;
        v.text = must_strdup(text);
        return add_value(s, t, &v);
    }
    n = word_length(s);
    if (!n || n > VALUE_MAX) {
        snprintf(s->why, s->size, "has a comparison without its value");
        return false;
    }
    if (!read_range(s->at, n, &v)) {
        memcpy(text, s->at, n);
        text[n] = '\0';
        v.text = must_strdup(text);
    }
    s->at += n;
    return add_value(s, t, &v);
}

static bool take_list(struct scanner *s, struct test *t)
{
    do {
        if (!take_value(s, t))
            return false;
        skip_blanks(s);
    } while (*s->at == ',' && s->at++);
    return true;
}

static bool take_pattern(struct scanner *s, struct test *t)
{
    char text[VALUE_MAX + 1];

    skip_blanks(s);
    if (*s->at != '"') {
        snprintf(s->why, s->size, "has a ~ without a regex in quotes behind it");
        return false;
    }
    return take_quoted(s, text) && pattern_make(&t->pattern, text, s->why, s->size);
}

static bool take_comparison(struct scanner *s, struct test *t)
{
    static const struct {
        const char *word;
        enum comparison comparison;
    } words[] = {
        {"==", COMPARE_EQUAL}, {"=", COMPARE_EQUAL}, {"!=", COMPARE_DIFFER},
        {"in", COMPARE_IN},    {"~", COMPARE_MATCH}, {"exists", COMPARE_EXISTS},
    };
    size_t i = 0;

    while (i < sizeof(words) / sizeof(words[0]) && !take_word(s, words[i].word))
        i++;
    if (i == sizeof(words) / sizeof(words[0])) {
        snprintf(s->why, s->size, "has a test without ==, !=, in, ~ or exists");
        return false;
    }
    t->comparison = words[i].comparison;
    switch (t->comparison) {
    case COMPARE_EXISTS:
        return true;
    case COMPARE_MATCH:
        return take_pattern(s, t);
    case COMPARE_IN:
        return take_list(s, t);
    default:
        return take_value(s, t);
    }
}

/* A path ends at a blank that is not in quotes. */
static size_t path_length(const char *s)
{
    size_t n = 0;

    for (bool quoted = false; s[n] && (quoted || !strchr(" \t", s[n])); n++)
        quoted ^= s[n] == '"';
    return n;
}

static bool take_subject(struct scanner *s, struct test *t)
{
    size_t n;

    skip_blanks(s);
    if (take_word(s, "status")) {
        t->subject = SUBJECT_STATUS;
    } else if (take_word(s, "body")) {
        t->subject = SUBJECT_BODY;
    } else if (!strncmp(s->at, "json:", 5)) {
        t->subject = SUBJECT_JSON;
        s->at += 5;
        n = path_length(s->at);
        if (!json_path_compile(&t->path, s->at, n, s->why, s->size))
            return false;
        s->at += n;
    } else {
        snprintf(s->why, s->size, "has a test of nothing known: status, body or json:PATH");
        return false;
    }
    return true;
}

static bool take_test(struct scanner *s, struct test *t)
{
    t->negated = take_word(s, "not");
    return take_subject(s, t) && take_comparison(s, t);
}

struct operator_condition *operator_condition_compile(const char *text, char *why, size_t size)
{
    struct operator_condition *c = must_alloc(1, sizeof(*c));
    struct scanner s = {text, why, size};

    c->tests = must_alloc(TESTS_MAX, sizeof(*c->tests));
    for (;;) {
        if (c->count == TESTS_MAX) {
            snprintf(why, size, "has more than %d tests", TESTS_MAX);
            break;
        }
        if (!take_test(&s, &c->tests[c->count++]))
            break;
        skip_blanks(&s);
        if (!*s.at)
            return c;
        if (!take_word(&s, "and")) {
            snprintf(why, size, "has something other than \"and\" between two tests");
            break;
        }
    }
    operator_condition_free(c);
    return NULL;
}

static void test_free(struct test *t)
{
    for (size_t i = 0; i < t->value_count; i++)
        free(t->values[i].text);
    free(t->values);
    json_path_free(&t->path);
    pattern_free(&t->pattern);
}

void operator_condition_free(struct operator_condition *c)
{
    if (!c)
        return;
    for (size_t i = 0; i < c->count; i++)
        test_free(&c->tests[i]);
    free(c->tests);
    free(c);
}

static bool is_value(const struct value *v, const char *s, size_t n)
{
    int64_t number;

    if (v->text)
        return strlen(v->text) == n && !memcmp(v->text, s, n);
    return read_number(s, n, &number) && number >= v->low && number <= v->high;
}

static bool is_among(const struct test *t, const char *s, size_t n)
{
    for (size_t i = 0; i < t->value_count; i++)
        if (is_value(&t->values[i], s, n))
            return true;
    return false;
}

/* The text that a test looks at; NULL: there is none. */
static const char *looked_at(const struct test *t, struct operator_answer *a,
                             char scratch[JSON_SCALAR_MAX], size_t *n)
{
    const char *text = NULL;

    switch (t->subject) {
    case SUBJECT_STATUS:
        if (!a->status)
            return NULL;
        *n = (size_t)snprintf(scratch, JSON_SCALAR_MAX, "%d", a->status);
        return scratch;
    case SUBJECT_BODY:
        *n = a->len;
        return a->whole ? a->body : NULL;
    case SUBJECT_JSON:
        text = json_scalar(json_path_get(&t->path, operator_answer_json(a)), scratch);
        *n = text ? strlen(text) : 0;
    }
    return text;
}

static bool holds(const struct test *t, struct operator_answer *a)
{
    char scratch[JSON_SCALAR_MAX];
    regmatch_t found[2];
    const char *text;
    size_t n = 0;
    bool met = true;

    if (t->comparison == COMPARE_EXISTS && t->subject == SUBJECT_JSON)
        return operator_answer_json(a) &&
               (json_path_get(&t->path, operator_answer_json(a)) != NULL) != t->negated;
    text = looked_at(t, a, scratch, &n);
    if (!text)
        return false;
    switch (t->comparison) {
    case COMPARE_EQUAL:
    case COMPARE_IN:
        met = is_among(t, text, n);
        break;
    case COMPARE_DIFFER:
        met = !is_among(t, text, n);
        break;
    case COMPARE_MATCH:
        met = pattern_find(&t->pattern, text, n, found);
        break;
    case COMPARE_EXISTS:
        break;
    }
    return met != t->negated;
}

bool operator_condition_holds(const struct operator_condition *c, struct operator_answer *a)
{
    for (size_t i = 0; i < c->count; i++)
        if (!holds(&c->tests[i], a))
            return false;
    return true;
}

/* ---- where values stand ---- */

struct operator_spot {
    bool in_json;
    struct json_path path;
    struct pattern pattern;
};

struct operator_spot *operator_spot_compile(const char *text, char *why, size_t size)
{
    struct operator_spot *s = must_alloc(1, sizeof(*s));
    bool ok = false;

    s->in_json = !strncmp(text, "json:", 5);
    if (s->in_json)
        ok = json_path_compile(&s->path, text + 5, strlen(text + 5), why, size);
    else if (!strncmp(text, "body:", 5))
        ok = pattern_make(&s->pattern, text + 5, why, size);
    else
        snprintf(why, size, "must be json:PATH or body:REGEX");
    if (ok)
        return s;
    operator_spot_free(s);
    return NULL;
}

void operator_spot_free(struct operator_spot *s)
{
    if (!s)
        return;
    json_path_free(&s->path);
    pattern_free(&s->pattern);
    free(s);
}

const char *operator_spot_get(const struct operator_spot *s, struct operator_answer *a,
                              char out[JSON_SCALAR_MAX])
{
    regmatch_t found[2];
    const regmatch_t *part;
    size_t n;

    if (s->in_json) {
        const json_t *value = json_path_get(&s->path, operator_answer_json(a));

        return json_is_null(value) ? NULL : json_scalar(value, out);
    }
    if (!a->whole || !pattern_find(&s->pattern, a->body, a->len, found))
        return NULL;
    part = found[1].rm_so >= 0 ? &found[1] : &found[0];
    n = (size_t)(part->rm_eo - part->rm_so);
    if (n >= JSON_SCALAR_MAX || memchr(a->body + part->rm_so, '\0', n))
        return NULL;
    memcpy(out, a->body + part->rm_so, n);
    out[n] = '\0';
    return out;
}
