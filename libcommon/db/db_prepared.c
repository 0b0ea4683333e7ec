#include "libcommon/db/db_prepared.h"

#include <mysql.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base/must.h"

#define DIGITS_MAX 18 /* any such number is an int64_t */
#define KEPT 16       /* a block costs the server about 100 KB each */

struct kept {
    struct buf text;
    MYSQL_STMT *stmt; /* NULL: it was seen once */
    uint64_t used;
};

struct db_prepared {
    bool refused; /* the server does not prepare what it is asked to */
    uint64_t uses;
    struct kept kept[KEPT];
    struct db_shape shape;
    MYSQL_BIND *binds;
    size_t bind_room;
};

/* ---- shapes ---- */

static bool is_word(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static struct db_literal *add(struct db_shape *shape, enum db_literal_kind kind)
{
    if (shape->n == shape->room) {
        size_t room = shape->room ? shape->room * 2 : 64;
        struct db_literal *more = realloc(shape->literals, room * sizeof(*more));

        if (!more) {
            shape->text.failed = true;
            return NULL;
        }
        shape->literals = more;
        shape->room = room;
    }
    shape->literals[shape->n] = (struct db_literal){.kind = kind, .at = shape->values.len};
    return &shape->literals[shape->n++];
}

/* What stands behind a backslash, as the client's library escapes it. */
static char unescaped(char c)
{
    switch (c) {
    case '0':
        return '\0';
    case 'n':
        return '\n';
    case 'r':
        return '\r';
    case 'Z':
        return '\032';
    default:
        return c;
    }
}

/* From behind the opening quote to behind the closing one. */
static const char *take_text(struct db_shape *shape, const char *p, const char *end)
{
    struct db_literal *literal = add(shape, DB_LITERAL_TEXT);

    while (p < end && *p != '\'') {
        const char *from = p;

        if (*p == '\\' && p + 1 < end) {
            buf_putc(&shape->values, unescaped(p[1]));
            p += 2;
            continue;
        }
        do
            p++;
        while (p < end && *p != '\'' && *p != '\\');
        buf_put(&shape->values, from, (size_t)(p - from));
    }
    if (literal)
        literal->len = shape->values.len - literal->at;
    return p < end ? p + 1 : end;
}

static unsigned nibble(char c)
{
    return is_digit(c) ? (unsigned)(c - '0') : ((unsigned)c | 0x20u) - 'a' + 10;
}

static const char *take_bytes(struct db_shape *shape, const char *p, const char *end)
{
    struct db_literal *literal = add(shape, DB_LITERAL_BYTES);

    for (; p + 1 < end && *p != '\''; p += 2)
        buf_putc(&shape->values, (char)(nibble(p[0]) << 4 | nibble(p[1])));
    if (literal)
        literal->len = shape->values.len - literal->at;
    return p < end ? p + 1 : end;
}

static const char *take_number(struct db_shape *shape, const char *p, size_t digits)
{
    struct db_literal *literal = add(shape, DB_LITERAL_NUMBER);
    int64_t number = 0;

    for (size_t i = 0; i < digits; i++)
        number = number * 10 + (p[i] - '0');
    if (literal)
        literal->number = number;
    return p + digits;
}

static size_t count_digits(const char *p, const char *end)
{
    size_t n = 0;

    while (p + n < end && is_digit(p[n]))
        n++;
    return n;
}

/* Behind the literal that stands at p; p: none does. */
static const char *take_literal(struct db_shape *shape, const char *p, const char *end,
                                bool in_word)
{
    size_t digits;

    if (*p == '\'')
        return take_text(shape, p + 1, end);
    if (in_word)
        return p;
    if (*p == 'x' && p + 1 < end && p[1] == '\'')
        return take_bytes(shape, p + 2, end);
    digits = count_digits(p, end);
    return digits && digits <= DIGITS_MAX ? take_number(shape, p, digits) : p;
}

bool db_shape_take(struct db_shape *shape, const char *sql, size_t n)
{
    const char *end = sql + n;
    const char *kept = sql; /* to here sql is in the shape */
    bool in_word = false;

    buf_reset(&shape->text);
    buf_reset(&shape->values);
    shape->n = 0;
    for (const char *p = sql; p < end;) {
        const char *behind = take_literal(shape, p, end, in_word);

        if (behind == p) {
            in_word = is_word(*p++);
            continue;
        }
        buf_put(&shape->text, kept, (size_t)(p - kept));
        buf_putc(&shape->text, '?');
        kept = p = behind;
    }
    if (kept < end)
        buf_put(&shape->text, kept, (size_t)(end - kept));
    return !shape->text.failed && !shape->values.failed;
}

void db_shape_free(struct db_shape *shape)
{
    buf_free(&shape->text);
    buf_free(&shape->values);
    free(shape->literals);
    *shape = (struct db_shape){0};
}

/* ---- what is kept ---- */

struct db_prepared *db_prepared_new(void)
{
    return must_alloc(1, sizeof(struct db_prepared));
}

static void drop(struct kept *k)
{
    if (k->stmt)
        mysql_stmt_close(k->stmt);
    k->stmt = NULL;
    buf_free(&k->text);
}

void db_prepared_forget(struct db_prepared *p)
{
    for (size_t i = 0; i < KEPT; i++)
        drop(&p->kept[i]);
    p->refused = false;
}

void db_prepared_refuse(struct db_prepared *p)
{
    db_prepared_forget(p);
    p->refused = true;
}

void db_prepared_free(struct db_prepared *p)
{
    db_prepared_forget(p);
    db_shape_free(&p->shape);
    free(p->binds);
    free(p);
}

static struct kept *find(struct db_prepared *p)
{
    const struct buf *text = &p->shape.text;

    for (size_t i = 0; i < KEPT; i++)
        if (p->kept[i].text.len == text->len &&
            !memcmp(p->kept[i].text.data, text->data, text->len))
            return &p->kept[i];
    return NULL;
}

static void keep(struct db_prepared *p)
{
    struct kept *oldest = &p->kept[0];

    for (size_t i = 1; i < KEPT; i++)
        if (p->kept[i].used < oldest->used)
            oldest = &p->kept[i];
    drop(oldest);
    buf_put(&oldest->text, p->shape.text.data, p->shape.text.len);
    if (oldest->text.failed)
        buf_free(&oldest->text);
    oldest->used = ++p->uses;
}

static bool prepare(struct db_prepared *p, struct kept *k, MYSQL *mysql)
{
    k->stmt = mysql_stmt_init(mysql);
    if (k->stmt && mysql_stmt_prepare(k->stmt, k->text.data, k->text.len) == 0 &&
        mysql_stmt_param_count(k->stmt) == p->shape.n)
        return true;
    p->refused = true;
    drop(k);
    return false;
}

static void bind_one(MYSQL_BIND *bind, struct db_shape *shape, struct db_literal *literal)
{
    *bind = (MYSQL_BIND){0};
    if (literal->kind == DB_LITERAL_NUMBER) {
        bind->buffer_type = MYSQL_TYPE_LONGLONG;
        bind->buffer = &literal->number;
        return;
    }
    bind->buffer_type = literal->kind == DB_LITERAL_TEXT ? MYSQL_TYPE_STRING : MYSQL_TYPE_BLOB;
    bind->buffer = shape->values.data + literal->at;
    bind->buffer_length = literal->len;
}

static bool bind_all(struct db_prepared *p, MYSQL_STMT *stmt)
{
    if (p->shape.n > p->bind_room) {
        MYSQL_BIND *more = realloc(p->binds, p->shape.n * sizeof(*more));

        if (!more)
            return false;
        p->binds = more;
        p->bind_room = p->shape.n;
    }
    for (size_t i = 0; i < p->shape.n; i++)
        bind_one(&p->binds[i], &p->shape, &p->shape.literals[i]);
    return mysql_stmt_bind_param(stmt, p->binds) == 0;
}

MYSQL_STMT *db_prepared_find(struct db_prepared *p, MYSQL *mysql, const char *sql, size_t n)
{
    struct kept *k;

    if (p->refused || !db_shape_take(&p->shape, sql, n))
        return NULL;
    k = find(p);
    if (!k) {
        keep(p);
        return NULL;
    }
    k->used = ++p->uses;
    if (!k->stmt && !prepare(p, k, mysql))
        return NULL;
    return bind_all(p, k->stmt) ? k->stmt : NULL;
}
