#include "libcommon/domain/operator_secret.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base/must.h"

#define SECRET_MAX 4096
#define PATH_LEN 512

/* What was in the environment: a few, for as long as the process lives. */
struct remembered {
    struct remembered *next;
    char *name, *value;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct remembered *all;

/* NULL: the environment had none. Its text lives on. */
static const char *from_environment(const char *name)
{
    struct remembered *r;
    char *value;

    for (r = all; r; r = r->next)
        if (!strcmp(r->name, name))
            return r->value;
    value = getenv(name);
    if (!value || !*value)
        return NULL;
    r = must_alloc(1, sizeof(*r));
    r->name = must_strdup(name);
    r->value = must_strdup(value);
    r->next = all;
    all = r;
    explicit_bzero(value, strlen(value));
    return r->value;
}

static bool read_file(FILE *f, struct buf *out, char *why, size_t size)
{
    char text[SECRET_MAX + 2];
    size_t n;

    setvbuf(f, NULL, _IONBF, 0);
    n = fread(text, 1, sizeof(text), f);
    if (n && text[n - 1] == '\n')
        n--;
    if (n && text[n - 1] == '\r')
        n--;
    if (!n)
        snprintf(why, size, "is an empty file");
    else if (n > SECRET_MAX)
        snprintf(why, size, "is longer than %d bytes", SECRET_MAX);
    else
        buf_put(out, text, n);
    explicit_bzero(text, sizeof(text));
    return n && n <= SECRET_MAX;
}

/* The file that has it; false: none does. */
static bool path_of(const char *name, char path[PATH_LEN])
{
    static const char *const before[] = {"", "secret_"};
    const char *folder = getenv("CREDENTIALS_DIRECTORY");
    char variable[128];
    const char *file;
    FILE *f = NULL;

    snprintf(variable, sizeof(variable), "%s_FILE", name);
    file = getenv(variable);
    if (file && *file) {
        snprintf(path, PATH_LEN, "%s", file);
        return true;
    }
    for (size_t i = 0; folder && *folder && !f && i < 2; i++) {
        snprintf(path, PATH_LEN, "%s/%s%s", folder, before[i], name);
        f = fopen(path, "re");
    }
    if (f)
        fclose(f);
    return f != NULL;
}

bool operator_secret_get(const char *name, struct buf *out, char *why, size_t size)
{
    const char *value;
    char path[PATH_LEN];
    FILE *f;
    bool ok;

    pthread_mutex_lock(&lock);
    value = from_environment(name);
    pthread_mutex_unlock(&lock);
    if (value) {
        buf_puts(out, value);
        return true;
    }
    if (!path_of(name, path)) {
        snprintf(why, size, "is set nowhere: not as %s, %s_FILE or a credential", name, name);
        return false;
    }
    f = fopen(path, "re");
    if (!f) {
        snprintf(why, size, "cannot be read: %s", strerror(errno));
        return false;
    }
    ok = read_file(f, out, why, size);
    fclose(f);
    return ok;
}
