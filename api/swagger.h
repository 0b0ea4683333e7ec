#ifndef API_SWAGGER_H
#define API_SWAGGER_H

/*
 * /swagger/: Swagger UI with our OpenAPI document, from memory. The files have fixed names and are
 * read once, at start, from one folder; a request's path is compared with those names and never
 * reaches the file system. Where Swagger UI is not installed the document alone is served, and the
 * rest of the API works as ever.
 */

#include <stdbool.h>
#include <stddef.h>

#include "libcommon/base/err.h"

struct httpd_request;
struct swagger;

struct swagger_file {
    const char *name, *type;
    char *data; /* NULL: not found in the folder */
    size_t len;
    char etag[36];
};

/* Reads the folder; an empty dir means the one beside the program (a build) or, if that is not
 * there, the installed one. Never NULL. Blocks; *err says why the page is not complete. */
struct swagger *swagger_open(const char *dir, struct err *err);
bool swagger_complete(const struct swagger *s);
/* The file of that name if it may be served, else NULL. */
const struct swagger_file *swagger_find(const struct swagger *s, const char *name);
/* Answers a request to /swagger or below. */
void swagger_answer(const struct swagger *s, struct httpd_request *req);
void swagger_close(struct swagger *s); /* NULL is fine */

#endif
