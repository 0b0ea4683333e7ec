#include "api/receipt_form.h"

#include <stdlib.h>
#include <string.h>

#include "libcommon/base/utf8.h"

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* In place: it never grows. Malformed sequences stay. */
static size_t decode(char *s, size_t n)
{
    size_t len = 0;

    for (size_t i = 0; i < n; i++) {
        if (s[i] == '%' && i + 2 < n && hex_value(s[i + 1]) >= 0 && hex_value(s[i + 2]) >= 0) {
            s[len++] = (char)(hex_value(s[i + 1]) * 16 + hex_value(s[i + 2]));
            i += 2;
        } else {
            s[len++] = s[i] == '+' ? ' ' : s[i];
        }
    }
    return len;
}

static int compare(const struct receipt_field *a, const struct receipt_field *b)
{
    size_t n = a->name_len < b->name_len ? a->name_len : b->name_len;
    int order = memcmp(a->name, b->name, n);

    if (order)
        return order;
    return a->name_len < b->name_len ? -1 : a->name_len > b->name_len;
}

static bool add(struct receipt_form *form, char *s, size_t n)
{
    char *equals = memchr(s, '=', n);
    size_t name_len = equals ? (size_t)(equals - s) : n;
    char *value = equals ? equals + 1 : s + n;
    struct receipt_field field = {.name = s, .value = value};

    field.value_len = decode(value, n - (size_t)(value - s));
    field.name_len = decode(s, name_len);
    if (form->n == RECEIPT_FIELDS_MAX)
        return false;
    form->fields[form->n++] = field;
    return true;
}

bool receipt_form_read(struct receipt_form *form, const char *text, size_t n)
{
    size_t at = 0;

    form->n = 0;
    form->text = malloc(n + 1);
    if (!form->text)
        return false;
    memcpy(form->text, text, n);
    form->text[n] = '\0';
    while (at < n) {
        char *field = form->text + at;
        char *end = memchr(field, '&', n - at);
        size_t len = end ? (size_t)(end - field) : n - at;

        if (len && !add(form, field, len))
            return false;
        at += len + 1;
    }
    return true;
}

void receipt_form_free(struct receipt_form *form)
{
    free(form->text);
    form->text = NULL;
    form->n = 0;
}

/* Of bytes that may be no text. */
static json_t *text_of(const char *s, size_t n)
{
    struct buf plain = {0};
    struct buf quoted = {0};
    json_t *text = NULL;

    if (utf8_ok(s, n))
        return json_stringn(s, n);
    for (size_t i = 0; i < n; i++)
        if (s[i])
            buf_putc(&plain, s[i]);
    buf_put_json(&quoted, plain.len ? plain.data : "", plain.len);
    if (!plain.failed && !quoted.failed)
        text = json_loadb(quoted.data, quoted.len, JSON_DECODE_ANY, NULL);
    buf_free(&plain);
    buf_free(&quoted);
    return text;
}

/* False: memory is out. A name that is no text is nobody's. */
static bool put(json_t *object, const struct receipt_field *f)
{
    struct buf name = {0};
    json_t *value;
    bool ok = true;

    if (!utf8_ok(f->name, f->name_len))
        return true;
    buf_put(&name, f->name, f->name_len);
    if (!name.failed) {
        value = json_object_get(object, name.len ? name.data : "")
                    ? json_null()
                    : text_of(f->value, f->value_len);
        ok = !json_object_set_new(object, name.len ? name.data : "", value);
    }
    ok &= !name.failed;
    buf_free(&name);
    return ok;
}

json_t *receipt_form_json(const struct receipt_form *form)
{
    json_t *object = json_object();

    for (size_t i = 0; object && i < form->n; i++) {
        if (put(object, &form->fields[i]))
            continue;
        json_decref(object);
        object = NULL;
    }
    return object;
}

void receipt_form_put_sorted(const struct receipt_form *form, struct buf *out)
{
    bool put[RECEIPT_FIELDS_MAX] = {false};

    for (size_t k = 0; k < form->n; k++) {
        size_t least = form->n;

        for (size_t i = 0; i < form->n; i++)
            if (!put[i] &&
                (least == form->n || compare(&form->fields[i], &form->fields[least]) < 0))
                least = i;
        put[least] = true;
        buf_put(out, form->fields[least].name, form->fields[least].name_len);
        buf_put(out, form->fields[least].value, form->fields[least].value_len);
    }
}
