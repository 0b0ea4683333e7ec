#ifndef LIBCOMMON_DOMAIN_MESSAGE_INTERNAL_H
#define LIBCOMMON_DOMAIN_MESSAGE_INTERNAL_H

/* What message.c and bundle.c share; nobody else includes this. */

#include "libcommon/domain/message.h"

struct json_t;

/* A document, of what is small enough to be a message; NULL: it is not, or no JSON, or memory is
 * out. */
struct json_t *message_load(const char *json, size_t n);

/* As message_decode, of a document that is parsed already; keeps a reference to it. */
int message_from_json(struct json_t *root, struct message *out, struct err *err);

#endif
