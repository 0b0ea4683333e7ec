#ifndef API_WEBHOOK_TASK_H
#define API_WEBHOOK_TASK_H

/*
 * What a request asks about a customer's endpoints: read and checked here (pure), and carried out
 * by a thread that has a connection (reads.h).
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/base/buf.h"
#include "libcommon/db/db.h"
#include "libcommon/domain/webhook.h"

enum webhook_act {
    WEBHOOK_CREATE,
    WEBHOOK_LIST,
    WEBHOOK_SHOW,
    WEBHOOK_REMOVE,
    WEBHOOK_ATTEMPTS,
    WEBHOOK_REPLAY,
    WEBHOOK_ROTATE,
    WEBHOOK_ENABLE,
};

struct webhook_task {
    enum webhook_act act;
    int64_t customer_id;
    uint64_t id; /* of the endpoint, where it is about one */

    char url[WEBHOOK_URL_MAX + 1]; /* of CREATE ... */
    unsigned kinds, batch;
    int64_t most; /* that a customer may have */

    int64_t limit, before; /* of ATTEMPTS */
    int64_t from_us;       /* of REPLAY */
    int64_t grace_sec;     /* of ROTATE */
};

bool webhook_task_changes(const struct webhook_task *task);

/* What is wrong with a request; code NULL: nothing. */
struct webhook_fault {
    const char *code, *message, *field;
};

/* The body of a CREATE: user_id, url, events, batch. customer_id: for a body that names none, 0: it
 * must. False: the fault says why; with code NULL memory is out. */
bool webhook_task_parse(struct webhook_task *task, const char *body, size_t n, int64_t customer_id,
                        struct webhook_fault *fault);
/* "17/attempts" behind /webhooks/: the endpoint, and the word or "". False: it is neither. */
bool webhook_task_path(const char *tail, uint64_t *id, const char **word);

enum webhook_answer {
    WEBHOOK_ANSWERED,
    WEBHOOK_ABSENT, /* the customer has no such endpoint */
    WEBHOOK_FULL,   /* ... has most of them already */
};

void webhook_task_register(void); /* the statements' labels; at start */
/* Blocks; db is acquired. out: JSON, when it is answered. */
int webhook_task_run(struct db *db, const struct webhook_task *task, struct buf *out,
                     enum webhook_answer *answer, struct err *err);

/* ,"events":[…] of a message: what its customer's endpoints were told. Blocks. */
int webhook_task_put_told(struct db *db, int64_t customer_id, const char *message_id, int64_t most,
                          struct buf *out, struct err *err);

#endif
