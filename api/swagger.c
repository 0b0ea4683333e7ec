#include "api/swagger.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "libcommon/base/buf.h"
#include "libcommon/base/must.h"
#include "libcommon/net/httpd.h"

#define PREFIX "/swagger"
#define DOCUMENT "openapi.yaml"
#define FILE_MAX (16 * 1024 * 1024)

/* Swagger UI sets styles through the DOM, which no policy forbids, and has pictures in its style
 * sheet. "Try it out" calls the server that the page came from. */
#define POLICY                                                                                    \
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src " \
    "'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

static const struct swagger_file known[] = {
    {.name = "index.html", .type = "text/html; charset=utf-8"},
    {.name = "page.css", .type = "text/css; charset=utf-8"},
    {.name = "page.js", .type = "text/javascript; charset=utf-8"},
    {.name = "swagger-ui.css", .type = "text/css; charset=utf-8"},
    {.name = "swagger-ui-bundle.js", .type = "text/javascript; charset=utf-8"},
    {.name = "favicon-32x32.png", .type = "image/png"},
    {.name = DOCUMENT, .type = "application/yaml; charset=utf-8"},
};
#define FILES (sizeof(known) / sizeof(known[0]))

struct swagger {
    struct swagger_file files[FILES];
    bool complete;
};

/* What was built beside the program, else where `cmake --install` puts it, which is found from the
 * program so that an installation may be moved as a whole. */
static void choose_dir(struct buf *dir)
{
    char exe[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
    char *slash;

    exe[n > 0 ? n : 0] = '\0';
    slash = strrchr(exe, '/');
    if (slash)
        *slash = '\0';
    buf_printf(dir, "%s/swagger", exe);
    if (!dir->failed && !access(dir->data, F_OK))
        return;
    buf_reset(dir);
    buf_printf(dir, "%s/" SWAGGER_INSTALLED, exe);
}

static int read_all(int fd, struct swagger_file *f)
{
    struct stat st;
    char *data;
    size_t at = 0;

    if (fstat(fd, &st))
        return -1;
    if (!S_ISREG(st.st_mode) || st.st_size < 1 || st.st_size > FILE_MAX) {
        errno = EFBIG;
        return -1;
    }
    data = must_alloc(1, (size_t)st.st_size);
    while (at < (size_t)st.st_size) {
        ssize_t n = read(fd, data + at, (size_t)st.st_size - at);

        if (n <= 0) {
            free(data);
            errno = n ? errno : EIO;
            return -1;
        }
        at += (size_t)n;
    }
    f->data = data;
    f->len = at;
    return 0;
}

static void make_etag(struct swagger_file *f)
{
    static const char hex[] = "0123456789abcdef";
    unsigned char hash[EVP_MAX_MD_SIZE];
    char *at = f->etag;

    MUST(EVP_Digest(f->data, f->len, hash, NULL, EVP_sha256(), NULL));
    *at++ = '"';
    for (int i = 0; i < 16; i++) {
        *at++ = hex[hash[i] >> 4];
        *at++ = hex[hash[i] & 15];
    }
    *at++ = '"';
    *at = '\0';
}

static int read_file(const char *dir, struct swagger_file *f, struct err *err)
{
    struct buf path = {0};
    int fd;
    int rc = 0;

    buf_printf(&path, "%s/%s", dir, f->name);
    MUST(!path.failed);
    fd = open(path.data, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || read_all(fd, f))
        rc = err_set(err, ERR_PERMANENT, (unsigned)errno, "%s: %s", path.data, strerror(errno));
    else
        make_etag(f);
    if (fd >= 0)
        close(fd);
    buf_free(&path);
    return rc;
}

struct swagger *swagger_open(const char *dir, struct err *err)
{
    struct swagger *s = must_alloc(1, sizeof(*s));
    struct buf chosen = {0};

    if (*dir)
        buf_puts(&chosen, dir);
    else
        choose_dir(&chosen);
    MUST(!chosen.failed);
    memcpy(s->files, known, sizeof(known));
    s->complete = true;
    for (size_t i = 0; i < FILES; i++)
        if (read_file(chosen.data, &s->files[i], err))
            s->complete = false;
    buf_free(&chosen);
    return s;
}

bool swagger_complete(const struct swagger *s)
{
    return s->complete;
}

const struct swagger_file *swagger_find(const struct swagger *s, const char *name)
{
    for (const struct swagger_file *f = s->files; f < s->files + FILES; f++)
        if (!strcmp(f->name, name))
            return f->data && (s->complete || !strcmp(name, DOCUMENT)) ? f : NULL;
    return NULL;
}

static void answer_file(const struct swagger_file *f, struct httpd_request *req)
{
    const char *seen = httpd_header(req, "If-None-Match");
    bool same = seen && strstr(seen, f->etag);

    httpd_set_header(req, "ETag", f->etag);
    httpd_set_header(req, "Cache-Control", "no-cache"); /* kept, and asked about: an update shows */
    httpd_set_header(req, "Content-Security-Policy", POLICY);
    httpd_set_header(req, "Referrer-Policy", "no-referrer");
    httpd_reply_constant(req, same ? 304 : 200, f->type, f->data, same ? 0 : f->len);
}

void swagger_answer(const struct swagger *s, struct httpd_request *req)
{
    const char *path = httpd_path(req) + strlen(PREFIX);
    const struct swagger_file *f = *path ? swagger_find(s, path + 1) : NULL;

    if (f) {
        answer_file(f, req);
    } else if (!s->complete) {
        httpd_reply_error(
            req, 404, "not_found",
            "Swagger UI is not installed here; the document is at /swagger/" DOCUMENT ".", NULL);
    } else if (!*path || !path[1]) {
        /* Relative, so that it holds behind a proxy that serves us below a path of its own. */
        httpd_set_header(req, "Location", *path ? "index.html" : "swagger/index.html");
        httpd_reply_type(req, 302, "text/plain", "", 0);
    } else {
        httpd_reply_error(req, 404, "not_found", "There is nothing at this path.", NULL);
    }
}

void swagger_close(struct swagger *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < FILES; i++)
        free(s->files[i].data);
    free(s);
}
