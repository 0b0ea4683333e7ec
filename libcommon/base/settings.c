#include "libcommon/base/settings.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base/buf.h"
#include "libcommon/base/must.h"

#define VALUE_MAX 16384

static void *target_of(const struct settings_group *g, const struct setting *s)
{
    return (char *)g->target + s->offset;
}

static bool is_text(enum setting_type type)
{
    return type != SETTING_INT && type != SETTING_BOOL;
}

static bool is_secret(const struct setting *s)
{
    return s->type == SETTING_SECRET || s->type == SETTING_URI;
}

static void wipe(char *text)
{
    if (text)
        explicit_bzero(text, strlen(text));
}

/* ---- where values come from ---- */

/* The lines of a file, while settings are loaded from it instead of the environment. */
struct source {
    char text[VALUE_MAX];
};
static struct source *source;

/* "NAME=value" begins this line: its value, which ends with the line. */
static const char *value_in(const char *line, const char *name, size_t n)
{
    line += strspn(line, " \t");
    return !strncmp(line, name, n) && line[n] == '=' ? line + n + 1 : NULL;
}

/* The last line counts. The caller frees; NULL: unset. */
static char *look_up(const char *name)
{
    const char *value = NULL;
    const char *found;
    char *copy;
    size_t n;

    if (!source) {
        value = getenv(name);
        return value ? must_strdup(value) : NULL;
    }
    for (const char *line = source->text; *line; line += strcspn(line, "\n"), line += *line == '\n')
        if ((found = value_in(line, name, strlen(name))))
            value = found;
    if (!value)
        return NULL;
    n = strcspn(value, "\r\n");
    if (n > 1 && (*value == '"' || *value == '\'') && value[n - 1] == *value) {
        value++;
        n -= 2;
    }
    copy = must_alloc(1, n + 1);
    memcpy(copy, value, n);
    return copy;
}

/* One trailing newline is cut. NULL: an empty file. whole: there is no NUL in it, where the value
 * would end. The stream has no buffer, and text here is wiped: what is returned is the only copy.
 */
static char *read_file(FILE *f, bool *whole)
{
    char text[VALUE_MAX];
    char *value;
    size_t n;

    setvbuf(f, NULL, _IONBF, 0);
    n = fread(text, 1, sizeof(text) - 1, f);
    if (n && text[n - 1] == '\n')
        n--;
    if (n && text[n - 1] == '\r')
        n--;
    text[n] = '\0';
    *whole = strlen(text) == n;
    value = n ? must_strdup(text) : NULL;
    explicit_bzero(text, sizeof(text));
    return value;
}

/* Of the file that NAME_FILE names. */
static char *read_named_file(const char *name, const char *path, struct buf *errors, size_t *faults)
{
    char *file_value;
    bool whole;
    FILE *f = fopen(path, "re");

    if (!f) {
        buf_printf(errors, "%s: cannot read %s: %s\n", name, path, strerror(errno));
        (*faults)++;
        return NULL;
    }
    file_value = read_file(f, &whole);
    fclose(f);
    if (!whole) {
        buf_printf(errors, "%s: %s holds a NUL\n", name, path);
        (*faults)++;
    }
    return file_value;
}

/* The value of NAME, or of the file that NAME_FILE names; NULL when unset. The caller frees. */
static char *read_value(const struct setting *s, struct buf *errors, size_t *faults)
{
    char *value = look_up(s->name);
    char name[128];
    char *path;

    snprintf(name, sizeof(name), "%s_FILE", s->name);
    path = s->no_file ? NULL : look_up(name);
    if (value && *value && path && *path) {
        buf_printf(errors, "%s and %s are both set; set one\n", s->name, name);
        (*faults)++;
    }
    if (!value || !*value) {
        free(value);
        value = path && *path ? read_named_file(name, path, errors, faults) : NULL;
    }
    free(path);
    return value;
}

static bool parse_int(const char *text, int64_t *out)
{
    char *end;
    long long v;

    if (!isdigit((unsigned char)*text) && *text != '-')
        return false;
    errno = 0;
    v = strtoll(text, &end, 10);
    if (errno || end == text || *end)
        return false;
    *out = v;
    return true;
}

static bool parse_bool(const char *text, bool *out)
{
    static const char *const yes[] = {"true", "1", "yes", "on"};
    static const char *const no[] = {"false", "0", "no", "off"};

    for (size_t i = 0; i < 4; i++) {
        if (!strcasecmp(text, yes[i]))
            return *out = true, true;
        if (!strcasecmp(text, no[i]))
            return *out = false, true;
    }
    return false;
}

static bool is_choice(const char *text, const char *choices)
{
    size_t n = strlen(text);

    for (const char *at = choices; *at;) {
        size_t len = strcspn(at, " ");

        if (len == n && !memcmp(at, text, n))
            return true;
        at += len;
        at += strspn(at, " ");
    }
    return false;
}

/* Digits up to end. */
static bool parse_port(const char *text, const char *end, uint16_t *port)
{
    unsigned v = 0;

    if (text == end || end - text > 5)
        return false;
    for (; text < end; text++) {
        if (!isdigit((unsigned char)*text))
            return false;
        v = v * 10 + (unsigned)(*text - '0');
    }
    *port = (uint16_t)v;
    return v <= UINT16_MAX;
}

bool settings_split_addr(const char *addr, char *host, size_t size, uint16_t *port)
{
    const char *colon = strrchr(addr, ':');
    bool brackets = *addr == '[';
    size_t n;

    if (!colon || !parse_port(colon + 1, colon + 1 + strlen(colon + 1), port))
        return false;
    n = (size_t)(colon - addr);
    if (brackets && (n < 3 || addr[n - 1] != ']'))
        return false;
    if (brackets) {
        addr++;
        n -= 2;
    }
    if (n >= size)
        return false;
    memcpy(host, addr, n);
    host[n] = '\0';
    return strcspn(host, " \t[]/@") == n;
}

bool settings_url_port_ok(const char *url)
{
    const char *start = strstr(url, "://");
    const char *end;
    const char *colon = NULL;
    uint16_t port;

    start = start ? start + 3 : url;
    end = start + strcspn(start, "/?#");
    for (const char *at = end; at > start && at[-1] != '@' && at[-1] != ']'; at--)
        if (at[-1] == ':')
            colon = at - 1;
    return !colon || (parse_port(colon + 1, end, &port) && port);
}

size_t settings_check_order(const char *low_name, int64_t low, const char *high_name, int64_t high,
                            struct buf *errors)
{
    if (low <= high)
        return 0;
    buf_printf(errors, "%s=%lld is above %s=%lld\n", low_name, (long long)low, high_name,
               (long long)high);
    return 1;
}

static bool check_text(const struct setting *s, const char *text, char *why, size_t size)
{
    size_t longest = s->max > 0 ? (size_t)s->max : 1024;
    char host[256];
    uint16_t port;

    if (strlen(text) > longest) {
        snprintf(why, size, "must be at most %zu bytes long", longest);
        return false;
    }
    if (s->type == SETTING_ADDR && *text && !settings_split_addr(text, host, sizeof(host), &port)) {
        snprintf(why, size, "must be host:port or :port");
        return false;
    }
    if (s->type == SETTING_CHOICE && *text && !is_choice(text, s->choices)) {
        snprintf(why, size, "must be one of: %s", s->choices);
        return false;
    }
    return !*text || !s->check || s->check(text, why, size);
}

/* Parses text into the target; false with a reason when it does not fit. */
static bool store(const struct settings_group *g, const struct setting *s, const char *text,
                  char *why, size_t size)
{
    void *to = target_of(g, s);
    int64_t v;

    switch (s->type) {
    case SETTING_INT:
        if (!parse_int(text, &v) || v < s->min || v > s->max) {
            snprintf(why, size, "must be a whole number from %lld to %lld", (long long)s->min,
                     (long long)s->max);
            return false;
        }
        *(int64_t *)to = v;
        return true;
    case SETTING_BOOL:
        if (parse_bool(text, to))
            return true;
        snprintf(why, size, "must be true or false");
        return false;
    default:
        if (!check_text(s, text, why, size))
            return false;
        wipe(*(char **)to);
        free(*(char **)to);
        *(char **)to = must_strdup(text);
        return true;
    }
}

/* What may be a secret is not shown. Of a URI, or of text that may hold some: everything from the
 * first "://", or the colon behind it, to the last @, and everything behind the first ?, where an @
 * need not end a user's name (amqp://user:...@host, http://host/?...), with three asterisks in its
 * place. */
static void put_public(struct buf *out, const char *value)
{
    size_t path = strcspn(value, "?");
    const char *query = value[path] ? value + path : NULL;
    const char *at = strrchr(value, '@');
    const char *scheme = strstr(value, "://");
    const char *user = scheme && at && scheme < at ? scheme + 3 : value;
    const char *colon = at ? memchr(user, ':', (size_t)(at - user)) : NULL;
    size_t shown = (size_t)((colon && user != value ? colon + 1 : user) - value);

    if (at && shown <= path) {
        buf_put(out, value, shown);
        buf_puts(out, "***");
        if (query && query < at)
            return;
        value = at;
    }
    if (!query) {
        buf_puts(out, value);
        return;
    }
    buf_put(out, value, (size_t)(query - value) + 1);
    buf_puts(out, "***");
}

/* A secret's wrong value is still a secret. */
static void put_fault(struct buf *errors, const struct setting *s, const char *value,
                      const char *why)
{
    buf_puts(errors, s->name);
    if (!is_secret(s)) {
        buf_putc(errors, '=');
        put_public(errors, value);
        buf_putc(errors, ':');
    }
    buf_printf(errors, " %s\n", why);
}

static size_t load_one(const struct settings_group *g, const struct setting *s, const char *spared,
                       struct buf *errors)
{
    size_t faults = 0;
    char why[256] = "";
    char *value = read_value(s, errors, &faults);

    if (!value && !s->initial) {
        if (!faults && spared && (!strcmp(s->name, spared) || !strcmp(spared, SETTINGS_SPARE_ALL)))
            return 0;
        if (!faults)
            buf_printf(errors, "%s is required (or %s_FILE)\n", s->name, s->name);
        return faults ? faults : 1;
    }
    if (!store(g, s, value ? value : s->initial, why, sizeof(why))) {
        put_fault(errors, s, value ? value : s->initial, why);
        faults++;
    }
    wipe(value);
    free(value);
    return faults;
}

size_t settings_load(const struct settings_group *groups, size_t n, struct buf *errors)
{
    return settings_load_sparing(groups, n, NULL, errors);
}

size_t settings_load_sparing(const struct settings_group *groups, size_t n, const char *spared,
                             struct buf *errors)
{
    size_t faults = 0;

    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; groups[i].rows[k].name; k++)
            faults += load_one(&groups[i], &groups[i].rows[k], spared, errors);
    return faults;
}

size_t settings_load_file(const struct settings_group *groups, size_t n, const char *path,
                          struct buf *errors)
{
    struct source file = {0};
    FILE *f = fopen(path, "re");
    size_t faults;
    size_t len;

    if (!f) {
        buf_printf(errors, "cannot read %s: %s\n", path, strerror(errno));
        return 1;
    }
    setvbuf(f, NULL, _IONBF, 0);
    len = fread(file.text, 1, sizeof(file.text), f);
    fclose(f);
    if (len == sizeof(file.text) || memchr(file.text, '\0', len)) {
        buf_printf(errors, "%s is too long, or holds a NUL\n", path);
        faults = 1;
    } else {
        source = &file;
        faults = settings_load(groups, n, errors);
        source = NULL;
    }
    explicit_bzero(file.text, sizeof(file.text));
    return faults;
}

void settings_free(const struct settings_group *groups, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; groups[i].rows[k].name; k++) {
            const struct setting *s = &groups[i].rows[k];
            char **text = target_of(&groups[i], s);

            if (!is_text(s->type))
                continue;
            wipe(*text);
            free(*text);
            *text = NULL;
        }
    }
}

void settings_forget_environment(const struct settings_group *groups, size_t n)
{
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; groups[i].rows[k].name; k++)
            if (is_secret(&groups[i].rows[k]))
                wipe(getenv(groups[i].rows[k].name));
}

const bool *settings_flag(const struct settings_group *groups, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; groups[i].rows[k].name; k++) {
            const struct setting *s = &groups[i].rows[k];

            if (s->type == SETTING_BOOL && !strcmp(s->name, name))
                return target_of(&groups[i], s);
        }
    }
    return NULL;
}

const char *settings_text(const struct settings_group *groups, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; groups[i].rows[k].name; k++) {
            const struct setting *s = &groups[i].rows[k];

            if (is_text(s->type) && !strcmp(s->name, name))
                return *(char **)target_of(&groups[i], s);
        }
    }
    return NULL;
}

static const char *type_name(enum setting_type type)
{
    static const char *const names[] = {
        [SETTING_INT] = "whole number", [SETTING_BOOL] = "true or false", [SETTING_STRING] = "text",
        [SETTING_ADDR] = "address",     [SETTING_CHOICE] = "choice",      [SETTING_URI] = "URI",
        [SETTING_SECRET] = "secret",
    };

    return names[type];
}

static void put_limits(const struct setting *s, FILE *to)
{
    if (s->type == SETTING_INT)
        fprintf(to, ", %lld to %lld", (long long)s->min, (long long)s->max);
    else if (s->type == SETTING_CHOICE)
        fprintf(to, ": %s", s->choices);
}

static const char *shown_default(const struct setting *s)
{
    if (!s->initial)
        return "required";
    return *s->initial ? s->initial : "empty";
}

void settings_print_help(const struct settings_group *groups, size_t n, FILE *to)
{
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; groups[i].rows[k].name; k++) {
            const struct setting *s = &groups[i].rows[k];

            fprintf(to, "  %s (%s", s->name, type_name(s->type));
            put_limits(s, to);
            fprintf(to, "; default %s)\n      %s\n", shown_default(s), s->help);
        }
    }
    fprintf(to,
            "\nEach may also be given as NAME_FILE, the path of a file that holds the value, but "
            "where that is a setting of its own.\n");
}

void settings_print_markdown(const struct settings_group *groups, size_t n, FILE *to)
{
    fprintf(to, "| setting | default | kind | meaning |\n| --- | --- | --- | --- |\n");
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; groups[i].rows[k].name; k++) {
            const struct setting *s = &groups[i].rows[k];
            bool literal = s->initial && *s->initial;

            fprintf(to, "| `%s` | %s%s%s | %s", s->name, literal ? "`" : "", shown_default(s),
                    literal ? "`" : "", type_name(s->type));
            put_limits(s, to);
            fprintf(to, " | %s |\n", s->help);
        }
    }
}

static void describe_text(const struct setting *s, const char *text, struct buf *out)
{
    if (!text) /* it was spared */
        return;
    if (s->type == SETTING_SECRET)
        buf_puts(out, *text ? "***" : "");
    else
        put_public(out, text);
}

void settings_describe(const struct settings_group *groups, size_t n, struct buf *out)
{
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; groups[i].rows[k].name; k++) {
            const struct setting *s = &groups[i].rows[k];
            void *from = target_of(&groups[i], s);

            if (out->len)
                buf_putc(out, ' ');
            buf_puts(out, s->name);
            buf_putc(out, '=');
            if (s->type == SETTING_INT)
                buf_put_int(out, *(int64_t *)from);
            else if (s->type == SETTING_BOOL)
                buf_puts(out, *(bool *)from ? "true" : "false");
            else
                describe_text(s, *(char **)from, out);
        }
    }
}
