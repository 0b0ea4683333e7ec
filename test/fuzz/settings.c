/*
 * Settings of msg-consumerd, the largest set, a NAME=value a line: they are taken or refused in
 * words, and neither those nor the line at the start tell a secret.
 */

#include "consumerd/settings.h"

#include <stdlib.h>
#include <unistd.h>

#include "libcommon/base/buf.h"
#include "test/fuzz/fuzz.h"

#define LINES_MAX 64
#define SECRET "S3cr3t"

static bool is_ours(const char *line)
{
    const struct daemon_program *p = &consumerd_program;
    size_t n = strcspn(line, "=");

    for (size_t i = 0; i < p->group_count; i++)
        for (const struct setting *s = p->groups[i].rows; s->name; s++)
            if (strlen(s->name) == n && !memcmp(s->name, line, n) && line[n])
                return true;
    return false;
}

static bool is_secret(const char *line)
{
    const struct daemon_program *p = &consumerd_program;
    size_t n = strcspn(line, "=");

    for (size_t i = 0; i < p->group_count; i++)
        for (const struct setting *s = p->groups[i].rows; s->name; s++)
            if (s->type == SETTING_SECRET && strlen(s->name) == n && !memcmp(s->name, line, n))
                return true;
    return false;
}

/* Whether a word is told that secrets have, and no other setting. */
static bool tells(const struct buf *text, char *const *lines)
{
    for (size_t i = 0; lines[i]; i++)
        if (strstr(lines[i], SECRET) && !is_secret(lines[i]))
            return false;
    return text->len && strstr(text->data, SECRET);
}

static void try(char *const *lines)
{
    const struct daemon_program *p = &consumerd_program;
    struct buf errors = {0};
    struct buf shown = {0};
    size_t faults = settings_load(p->groups, p->group_count, &errors);

    if (!faults) {
        faults = p->check(&errors);
        settings_describe(p->groups, p->group_count, &shown);
    }
    MUST(!faults == !errors.len);
    MUST(!tells(&errors, lines) && !tells(&shown, lines));
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
        if (is_ours(lines[n])) /* no NAME_FILE: what is in files is not the input's */
            n++;
        else
            free(lines[n]);
    }
    lines[n] = NULL;
    environ = lines; /* setenv would keep every value for ever */
    try(lines);
    environ = before;
    while (n)
        free(lines[--n]);
    return 0;
}
