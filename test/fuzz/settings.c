/*
 * Settings, a NAME=value a line, as each daemon reads them: they are taken or refused in words, and
 * neither those nor the line at the start tell a secret.
 */

#include <stdlib.h>
#include <unistd.h>

#include "api/settings.h"
#include "consumerd/settings.h"
#include "libcommon/base/buf.h"
#include "outboxd/settings.h"
#include "test/fuzz/fuzz.h"

#define LINES_MAX 64
#define SECRET "S3cr3t"

static const struct daemon_program *const programs[] = {&api_program, &outboxd_program,
                                                        &consumerd_program};
#define PROGRAMS (sizeof(programs) / sizeof(programs[0]))

static const struct setting *setting_of(const struct daemon_program *p, const char *line)
{
    size_t n = strcspn(line, "=");

    for (size_t i = 0; i < p->group_count; i++)
        for (const struct setting *s = p->groups[i].rows; s->name; s++)
            if (strlen(s->name) == n && !memcmp(s->name, line, n) && line[n])
                return s;
    return NULL;
}

static bool is_setting(const char *line)
{
    for (size_t i = 0; i < PROGRAMS; i++)
        if (setting_of(programs[i], line))
            return true;
    return false;
}

/* Whether a word stands in URLs alone where secrets do: in a query, or as a user's password. */
static bool is_private(const char *value)
{
    const char *last = strrchr(value, '@');
    const char *scheme = strstr(value, "://");
    const char *colon = scheme ? strchr(scheme + 3, ':') : NULL;

    if (last && (!scheme || scheme > last))
        colon = value;
    for (const char *at = strstr(value, SECRET); at; at = strstr(at + 1, SECRET))
        if (!memchr(value, '?', (size_t)(at - value)) &&
            !(last && last > at && colon && colon < at))
            return false;
    return true;
}

/* Whether a word is told that stands where secrets do, and nowhere else. */
static bool tells(const struct daemon_program *p, const struct buf *text, char *const *lines)
{
    for (size_t i = 0; lines[i]; i++) {
        const struct setting *s = setting_of(p, lines[i]);
        bool urls = s && (s->type == SETTING_URI || !strcmp(s->name, "OPERATORS"));

        if (s && s->type != SETTING_SECRET && strstr(lines[i], SECRET) &&
            !(urls && is_private(strchr(lines[i], '=') + 1)))
            return false;
    }
    return text->len && strstr(text->data, SECRET);
}

static void try(const struct daemon_program *p, char *const *lines)
{
    struct buf errors = {0};
    struct buf shown = {0};
    size_t faults = settings_load(p->groups, p->group_count, &errors);

    if (!faults) {
        faults = p->check(&errors);
        settings_describe(p->groups, p->group_count, &shown);
    }
    MUST(!faults == !errors.len);
    MUST(!tells(p, &errors, lines) && !tells(p, &shown, lines));
    settings_free(p->groups, p->group_count);
    buf_free(&errors);
    buf_free(&shown);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_text input = {(const char *)data, size};
    char *lines[LINES_MAX + 1];
    char **before = environ;
    size_t n = 0;

    while (input.n && n < LINES_MAX) {
        lines[n] = fuzz_string(fuzz_line(&input));
        if (is_setting(lines[n])) /* no NAME_FILE: what is in files is not the input's */
            n++;
        else
            free(lines[n]);
    }
    lines[n] = NULL;
    environ = lines; /* setenv would keep every value for ever */
    for (size_t i = 0; i < PROGRAMS; i++)
        try(programs[i], lines);
    environ = before;
    while (n)
        free(lines[--n]);
    return 0;
}
