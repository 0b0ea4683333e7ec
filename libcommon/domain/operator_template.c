#include "libcommon/domain/operator_template.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base/must.h"
#include "libcommon/base/utf8.h"
#include "libcommon/domain/gsm7.h"

#define WORD_MAX 64 /* of what stands between % { } and colons */
#define PARTS_MAX 5

/* What a value may be made of. */
enum alphabet {
    ALPHABET_WORD, /* letters, digits, - . _: harmless anywhere */
    ALPHABET_PLUS, /* digits and a plus, which is a blank in a form */
    ALPHABET_ANY,
};

enum escape { ESCAPE_NONE, ESCAPE_URL, ESCAPE_JSON, ESCAPE_XML, ESCAPE_HOST, ESCAPE_RAW, ESCAPES };
enum form { FORM_AS_IT_IS, FORM_DIGITS, FORM_PLUS };

enum variable {
    VARIABLE_TEXT,
    VARIABLE_TO,
    VARIABLE_REFERENCE,
    VARIABLE_TYPE,
    VARIABLE_RECEIPT_URL,
    VARIABLE_SIGNED_REFERENCE,
    VARIABLE_FROM,
    VARIABLE_SECRET,
    VARIABLE_ALPHABET,
    VARIABLES,
};

static const struct {
    const char *name;
    enum alphabet alphabet;
} variables[VARIABLES] = {
    [VARIABLE_TEXT] = {"text", ALPHABET_ANY},
    [VARIABLE_TO] = {"to", ALPHABET_PLUS},
    [VARIABLE_REFERENCE] = {"reference", ALPHABET_WORD},
    [VARIABLE_TYPE] = {"type", ALPHABET_WORD},
    [VARIABLE_RECEIPT_URL] = {"receipt_url", ALPHABET_ANY},
    [VARIABLE_SIGNED_REFERENCE] = {"signed_reference", ALPHABET_WORD},
    [VARIABLE_FROM] = {"from", ALPHABET_ANY},
    [VARIABLE_SECRET] = {"secret", ALPHABET_ANY},
    [VARIABLE_ALPHABET] = {"alphabet", ALPHABET_WORD},
};

static const char *const escape_names[ESCAPES] = {
    [ESCAPE_URL] = "url",   [ESCAPE_JSON] = "json", [ESCAPE_XML] = "xml",
    [ESCAPE_HOST] = "host", [ESCAPE_RAW] = "raw",
};

struct operator_piece {
    enum variable variable; /* VARIABLES: text that is always the same */
    enum form form;
    enum escape escape;
    bool secret;
    char *text, *other; /* NULL: none; of the alphabet: its two answers */
    size_t len;
};

/* ---- escapes ---- */

static bool is_unreserved(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c && strchr("-._~", c));
}

static void put_url(struct buf *out, const char *s, size_t n)
{
    static const char digits[] = "0123456789ABCDEF";

    if (!buf_reserve(out, n * 3))
        return;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];

        if (is_unreserved(s[i])) {
            out->data[out->len++] = s[i];
            continue;
        }
        out->data[out->len++] = '%';
        out->data[out->len++] = digits[c >> 4];
        out->data[out->len++] = digits[c & 15];
    }
    out->data[out->len] = '\0';
}

/* Without its quotes: the template has them. */
static void put_json(struct buf *out, const char *s, size_t n)
{
    size_t from = out->len;

    buf_put_json(out, s, n);
    if (out->failed)
        return;
    memmove(out->data + from, out->data + from + 1, out->len - from - 2);
    out->len -= 2;
    out->data[out->len] = '\0';
}

/* U+FFFE and U+FFFF. */
static bool is_no_xml(const char *s, size_t length)
{
    return length == 3 && !memcmp(s, "\xef\xbf", 2) && (unsigned char)s[2] >= 0xbe;
}

/* Of element content and of attributes alike. What XML 1.0 cannot hold becomes U+FFFD. */
static void put_xml(struct buf *out, const char *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        size_t length = utf8_character(s + i, n - i);

        if (length == 1 && strchr("&<>\"'\t\n\r", s[i]))
            buf_printf(out, "&#%d;", s[i]);
        else if (!length || (length == 1 && s[i] < ' ') || is_no_xml(s + i, length))
            buf_puts(out, "\xef\xbf\xbd");
        else
            buf_put(out, s + i, length);
        i += length ? length : 1;
    }
}

static void put_escaped(struct buf *out, enum escape escape, const char *s, size_t n)
{
    switch (escape) {
    case ESCAPE_URL:
        put_url(out, s, n);
        break;
    case ESCAPE_JSON:
        put_json(out, s, n);
        break;
    case ESCAPE_XML:
        put_xml(out, s, n);
        break;
    default:
        buf_put(out, s, n);
    }
}

/* ---- compiling ---- */

/* Text in a place that the value's own characters cannot leave. */
static bool is_safe(enum operator_place place, enum alphabet alphabet, enum escape escape)
{
    if (escape == ESCAPE_URL || alphabet == ALPHABET_WORD)
        return true;
    switch (place) {
    case OPERATOR_IN_URL:
    case OPERATOR_IN_FORM:
    case OPERATOR_IN_HOST:
        return false;
    case OPERATOR_IN_HEADER:
        return alphabet == ALPHABET_PLUS;
    case OPERATOR_IN_JSON:
        return alphabet == ALPHABET_PLUS || escape == ESCAPE_JSON;
    case OPERATOR_IN_XML:
        return alphabet == ALPHABET_PLUS || escape == ESCAPE_XML;
    default:
        return alphabet == ALPHABET_PLUS || escape != ESCAPE_NONE;
    }
}

static const char *place_escape(enum operator_place place)
{
    static const char *const names[OPERATOR_PLACES] = {
        [OPERATOR_IN_HOST] = "host", [OPERATOR_IN_URL] = "url",   [OPERATOR_IN_HEADER] = "url",
        [OPERATOR_IN_FORM] = "url",  [OPERATOR_IN_JSON] = "json", [OPERATOR_IN_XML] = "xml",
        [OPERATOR_IN_PLAIN] = "raw",
    };

    return names[place];
}

/* Characters as they stand in the file, or in a value that is known: what a place cannot hold. */
static bool fits(enum operator_place place, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];

        if (c < ' ' || c == 0x7f)
            return false;
        if (place == OPERATOR_IN_HOST && !is_unreserved(s[i]) && !strchr(":[]", s[i]))
            return false;
        if (place == OPERATOR_IN_URL && (c == ' ' || c > '~' || strchr("\"<>#\\^`{|}", s[i])))
            return false;
        if (place == OPERATOR_IN_HEADER && c > '~')
            return false;
    }
    return true;
}

struct compiler {
    struct operator_template *t;
    enum operator_place place;
    const struct operator_words *words;
    char *why;
    size_t size;
};

static struct operator_piece *add_piece(struct operator_template *t)
{
    t->pieces = realloc(t->pieces, (t->count + 1) * sizeof(*t->pieces));
    MUST(t->pieces != NULL);
    t->pieces[t->count] = (struct operator_piece){.variable = VARIABLES};
    return &t->pieces[t->count++];
}

static char *copy(const char *s, size_t n)
{
    char *to = must_alloc(1, n + 1);

    memcpy(to, s, n);
    return to;
}

void operator_template_add(struct operator_template *t, const char *text, size_t n, bool secret)
{
    struct operator_piece *p;

    if (!n)
        return;
    p = add_piece(t);
    p->text = copy(text, n);
    p->len = n;
    p->secret = secret;
}

/* What stands between % { and }, cut at its colons. */
struct words {
    char text[PARTS_MAX][WORD_MAX + 1];
    size_t n;
};

static bool cut(const char *s, size_t n, struct words *out)
{
    out->n = 0;
    for (;;) {
        const char *colon = memchr(s, ':', n);
        size_t len = colon ? (size_t)(colon - s) : n;

        if (out->n == PARTS_MAX || len > WORD_MAX)
            return false;
        memcpy(out->text[out->n], s, len);
        out->text[out->n++][len] = '\0';
        if (!colon)
            return true;
        s = colon + 1;
        n -= len + 1;
    }
}

static enum variable variable_of(const char *name)
{
    int i = 0;

    while (i < VARIABLES && strcmp(name, variables[i].name) != 0)
        i++;
    return (enum variable)i;
}

static bool is_name(const char *s)
{
    if (!*s)
        return false;
    for (; *s; s++)
        if (!is_unreserved(*s) || *s == '~' || *s == '-' || *s == '.')
            return false;
    return true;
}

static bool is_word(const char *s)
{
    for (; *s; s++)
        if (!is_unreserved(*s))
            return false;
    return true;
}

/* A form or an escape, each once, in this order. */
static bool take_modifier(struct operator_piece *p, const char *word)
{
    if (!strcmp(word, "digits") || !strcmp(word, "plus")) {
        if (p->variable != VARIABLE_TO || p->form || p->escape)
            return false;
        p->form = *word == 'd' ? FORM_DIGITS : FORM_PLUS;
        return true;
    }
    for (int i = ESCAPE_URL; i < ESCAPES; i++)
        if (!strcmp(word, escape_names[i])) {
            if (p->escape)
                return false;
            p->escape = (enum escape)i;
            return true;
        }
    return false;
}

/* A value that is known: it becomes text. */
static bool add_known(struct compiler *c, const struct operator_piece *p, const char *name,
                      const struct buf *value, bool secret)
{
    struct buf escaped = {0};
    const char *s = value->data ? value->data : "";
    bool raw = p->escape == ESCAPE_NONE || p->escape == ESCAPE_RAW || p->escape == ESCAPE_HOST;

    if (raw && !fits(c->place, s, value->len)) {
        snprintf(c->why, c->size, "has %%{%s} with a character that cannot stand there", name);
        return false;
    }
    put_escaped(&escaped, p->escape, s, value->len);
    MUST(!escaped.failed);
    operator_template_add(c->t, escaped.data ? escaped.data : "", escaped.len, secret);
    if (escaped.data)
        explicit_bzero(escaped.data, escaped.cap);
    buf_free(&escaped);
    return true;
}

static bool add_secret(struct compiler *c, const struct operator_piece *p, const char *name)
{
    struct buf value = {0};
    char why[128] = "";
    bool ok = true;

    if (!is_name(name)) {
        snprintf(c->why, c->size, "has a %%{secret:NAME} whose name is not letters, digits and _");
        return false;
    }
    if (!c->words->secret) {
        operator_template_add(c->t, "x", 1, true); /* what is compiled is not used */
        return true;
    }
    if (c->words->secret(name, &value, why, sizeof(why)))
        ok = add_known(c, p, name, &value, true);
    else
        ok = false;
    if (!ok && *why)
        snprintf(c->why, c->size, "needs %s, which %s", name, why);
    if (value.data)
        explicit_bzero(value.data, value.cap);
    buf_free(&value);
    return ok;
}

static bool add_from(struct compiler *c, const struct operator_piece *p)
{
    struct buf value = {0};
    bool ok;

    if (!c->words->from) {
        snprintf(c->why, c->size, "has %%{from}, and the section has no from");
        return false;
    }
    buf_puts(&value, c->words->from);
    ok = add_known(c, p, "from", &value, false);
    buf_free(&value);
    return ok;
}

static bool add_alphabet(struct compiler *c, const struct words *words)
{
    struct operator_piece *p;

    if (words->n != 3 || !is_word(words->text[1]) || !is_word(words->text[2])) {
        snprintf(c->why, c->size, "has an %%{alphabet} that is not %%{alphabet:A:B}");
        return false;
    }
    p = add_piece(c->t);
    p->variable = VARIABLE_ALPHABET;
    p->text = must_strdup(words->text[1]);
    p->other = must_strdup(words->text[2]);
    return true;
}

static bool is_constant(enum variable v)
{
    return v == VARIABLE_SECRET || v == VARIABLE_FROM;
}

static bool escape_ok(const struct compiler *c, const struct operator_piece *p)
{
    enum alphabet alphabet =
        p->form == FORM_DIGITS ? ALPHABET_WORD : variables[p->variable].alphabet;

    if (p->escape == ESCAPE_RAW && c->place != OPERATOR_IN_PLAIN)
        return false;
    if (p->escape == ESCAPE_HOST || c->place == OPERATOR_IN_HOST)
        return p->escape == ESCAPE_HOST && c->place == OPERATOR_IN_HOST;
    if (c->place == OPERATOR_IN_HEADER && is_constant(p->variable))
        return true; /* it is looked at itself */
    return is_safe(c->place, alphabet, p->escape);
}

/* The name and, of a secret, where its own would stand: that may be the secret by mistake. */
static const char *shown_name(enum variable v)
{
    return v == VARIABLE_SECRET ? "secret:NAME" : variables[v].name;
}

static bool take_modifiers(struct compiler *c, struct operator_piece *p, const struct words *words)
{
    for (size_t i = p->variable == VARIABLE_SECRET ? 2 : 1; i < words->n; i++)
        if (!take_modifier(p, words->text[i])) {
            snprintf(c->why, c->size, "has %%{%s} with a form or escape that is none for it",
                     shown_name(p->variable));
            return false;
        }
    if (escape_ok(c, p))
        return true;
    snprintf(c->why, c->size, "has %%{%s} where it has to be %%{%s:%s}", shown_name(p->variable),
             shown_name(p->variable), place_escape(c->place));
    return false;
}

static bool add_variable(struct compiler *c, const char *s, size_t n)
{
    struct operator_piece p = {0};
    struct words words;

    if (!cut(s, n, &words) || (p.variable = variable_of(words.text[0])) == VARIABLES) {
        snprintf(c->why, c->size, "has a %%{...} with a name that is none");
        return false;
    }
    if (p.variable == VARIABLE_ALPHABET)
        return add_alphabet(c, &words);
    if (!take_modifiers(c, &p, &words))
        return false;
    if (p.variable == VARIABLE_SECRET)
        return add_secret(c, &p, words.n > 1 ? words.text[1] : "");
    if (p.variable == VARIABLE_FROM)
        return add_from(c, &p);
    *add_piece(c->t) = p;
    return true;
}

static bool add_text(struct compiler *c, const char *s, size_t n)
{
    if (!fits(c->place, s, n)) {
        snprintf(c->why, c->size, "has a character that cannot stand there as it is");
        return false;
    }
    operator_template_add(c->t, s, n, false);
    return true;
}

static bool compile(struct compiler *c, const char *text)
{
    for (;;) {
        const char *open = strstr(text, "%{");
        const char *close;
        bool literal = open && open > text && open[-1] == '%';

        if (!open)
            return add_text(c, text, strlen(text));
        if (literal) {
            if (!add_text(c, text, (size_t)(open - 1 - text)) || !add_text(c, open, 2))
                return false;
            text = open + 2;
            continue;
        }
        close = strchr(open, '}');
        if (!close) {
            snprintf(c->why, c->size, "has a %%{ without its }");
            return false;
        }
        if (!add_text(c, text, (size_t)(open - text)) ||
            !add_variable(c, open + 2, (size_t)(close - open) - 2))
            return false;
        text = close + 1;
    }
}

bool operator_template_compile(struct operator_template *t, const char *text,
                               enum operator_place place, const struct operator_words *words,
                               char *why, size_t size)
{
    struct compiler c = {.t = t, .place = place, .words = words, .size = size};

    c.why = why;
    *t = (struct operator_template){0};
    if (compile(&c, text))
        return true;
    operator_template_free(t);
    return false;
}

void operator_template_free(struct operator_template *t)
{
    for (size_t i = 0; i < t->count; i++) {
        struct operator_piece *p = &t->pieces[i];

        if (p->secret)
            explicit_bzero(p->text, p->len);
        free(p->text);
        free(p->other);
    }
    free(t->pieces);
    *t = (struct operator_template){0};
}

void operator_template_append(struct operator_template *t, struct operator_template *from)
{
    for (size_t i = 0; i < from->count; i++)
        *add_piece(t) = from->pieces[i];
    free(from->pieces);
    *from = (struct operator_template){0};
}

/* ---- filling in ---- */

static void put_number(struct buf *out, const struct operator_piece *p, const char *to)
{
    const char *digits = to + (*to == '+');
    char plus[64];

    if (p->form == FORM_DIGITS) {
        buf_puts(out, digits);
        return;
    }
    snprintf(plus, sizeof(plus), "+%s", digits);
    to = p->form == FORM_PLUS ? plus : to;
    put_escaped(out, p->escape, to, strlen(to));
}

static void put_variable(struct buf *out, const struct operator_piece *p,
                         const struct operator_values *v)
{
    const char *plain[VARIABLES] = {
        [VARIABLE_REFERENCE] = v->reference,
        [VARIABLE_TYPE] = v->type,
        [VARIABLE_RECEIPT_URL] = v->receipt_url,
        [VARIABLE_SIGNED_REFERENCE] = v->signed_reference,
    };

    switch (p->variable) {
    case VARIABLE_TEXT:
        put_escaped(out, p->escape, v->text, v->text_len);
        break;
    case VARIABLE_TO:
        put_number(out, p, v->to);
        break;
    case VARIABLE_ALPHABET:
        buf_puts(out, gsm7_holds(v->text, v->text_len) ? p->text : p->other);
        break;
    default:
        put_escaped(out, p->escape, plain[p->variable], strlen(plain[p->variable]));
    }
}

static void put(const struct operator_template *t, const struct operator_values *values, bool shown,
                struct buf *out)
{
    for (size_t i = 0; i < t->count; i++) {
        const struct operator_piece *p = &t->pieces[i];

        if (p->variable != VARIABLES)
            put_variable(out, p, values);
        else if (p->secret && shown)
            buf_puts(out, "***");
        else
            buf_put(out, p->text, p->len);
    }
}

void operator_template_put(const struct operator_template *t, const struct operator_values *values,
                           struct buf *out)
{
    put(t, values, false, out);
}

void operator_template_show(const struct operator_template *t, const struct operator_values *values,
                            struct buf *out)
{
    put(t, values, true, out);
}

bool operator_template_uses(const struct operator_template *t, const char *variable)
{
    for (size_t i = 0; i < t->count; i++)
        if (t->pieces[i].variable != VARIABLES &&
            !strcmp(variables[t->pieces[i].variable].name, variable))
            return true;
    return false;
}

bool operator_template_is_constant(const struct operator_template *t)
{
    for (size_t i = 0; i < t->count; i++)
        if (t->pieces[i].variable != VARIABLES)
            return false;
    return true;
}
