#ifndef API_OPERATION_H
#define API_OPERATION_H

/*
 * One POST on its way through a committer: what was asked (parsed and checked here, pure), and what
 * became of it. Owned by the HTTP thread until commit_submit, then by its committer, which answers
 * and frees it. At the deadline the HTTP thread answers by the stage it has come to, whoever owns
 * it.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/domain/message.h"
#include "libcommon/domain/price.h"

#define OPERATION_KEY_MAX 255
#define OPERATION_DESCRIPTION_MAX 1024

struct httpd_request;

enum operation_kind { OPERATION_SEND = 1, OPERATION_TOPUP = 2 }; /* idempotency_keys.route */

enum operation_outcome {
    OUTCOME_OPEN,             /* not decided yet */
    OUTCOME_EXPIRED,          /* answered at its deadline, before it had begun; nothing is stored */
    OUTCOME_DONE,             /* committed; response holds the answer */
    OUTCOME_WRITTEN,          /* committed by an earlier try after all: as OUTCOME_DONE */
    OUTCOME_REPLAYED,         /* the key was known; response holds the first answer */
    OUTCOME_KEY_REUSED,       /* the key was known with another body */
    OUTCOME_INSUFFICIENT,     /* not enough balance */
    OUTCOME_BALANCE_TOO_HIGH, /* the top-up would lift it above LEDGER_TOPUP_MAX */
    OUTCOME_FENCED,           /* the customer moves, or has moved, to another cell */
    OUTCOME_OVERLOADED,       /* under pressure, and the key is not known */
    OUTCOME_LOCKED,           /* the customer's balance row is held by somebody: later */
    OUTCOME_LOCKED_TOO_LONG,  /* ... and the deadline has passed */
    OUTCOME_UNAVAILABLE,      /* the database is away; nothing is stored */
    OUTCOME_TOO_LATE,         /* its turn came after its deadline; nothing is stored */
    OUTCOME_UNKNOWN,          /* the answer to COMMIT was lost and not found out by the deadline */
    OUTCOME_TOO_LARGE,        /* alone it is more than a packet may hold; nothing is stored */
    OUTCOME_INTERNAL,         /* our fault; nothing is stored */
};

/* How far it has come, for who answers at the deadline. */
enum operation_stage {
    STAGE_WAITING, /* nothing of it is stored, and nothing will be once its deadline has passed */
    STAGE_HELD,    /* the same; somebody else has its customer's balance */
    STAGE_BEGUN,   /* it is being written */
};

struct operation;
/* Notes the stage. False: the deadline was first, and it is answered. */
typedef bool operation_enter_fn(struct operation *op, enum operation_stage stage);

struct operation {
    struct operation *next;
    struct httpd_request *request; /* for the answer; not looked into */
    enum operation_kind kind;
    int64_t customer_id;
    int64_t deadline_ms; /* monotonic */
    size_t bytes;        /* of memory */
    size_t packet_bytes; /* of a packet, about */
    bool replay_only;    /* under pressure: answer only what the key already knows */

    struct message message; /* a send */
    int64_t *prices;        /* of each recipient */
    int64_t total;          /* of all of them */
    int64_t accepted_us;
    char traceparent[TRACE_PARENT_SIZE];
    char *tracestate;

    int64_t amount; /* a top-up */
    const char *description;
    size_t description_len;
    uint64_t key_id; /* of the API key that asked for it; 0: none did */
    char peer[46];   /* ... and from where */

    char *key; /* NULL: none */
    size_t key_len;
    uint8_t body_hash[32];

    enum operation_outcome outcome;
    struct operation *earlier, *later; /* the neighbours with the same key in the same batch */
    bool begun;   /* STAGE_BEGUN: its outcome hangs on the transaction that is being written */
    bool doubted; /* the answer to a transaction that wrote it was lost */
    struct buf response;

    char *text;              /* what message.text or description point to */
    const char **recipients; /* prices and digits stand behind them, in the same allocation */
};

/* Why a body was refused: the answer's code, sentence and field (NULL: none; of a list the place is
 * named, "recipients[17]"). field may point into named: not to be copied. */
struct operation_fault {
    const char *code;
    const char *field;
    char named[64];
    char message[160];
};

struct operation_limits {
    int64_t max_recipients;
    const struct price_settings *prices;
    int64_t customer_id; /* of a body that names none; 0: it must */
};

/* The most bytes that a body of either kind needs: every character of its text escaped, the
 * recipients with white space among them. */
size_t operation_body_bytes(int64_t max_recipients);

/* NULL with *fault filled when the body is wrong; fault->code NULL when memory is out. Sets kind,
 * customer_id and the fields of its kind; a send gets its identifiers and prices. Nothing of body
 * is kept. */
struct operation *operation_parse_send(const char *body, size_t n,
                                       const struct operation_limits *limits,
                                       struct operation_fault *fault);
/* customer_id: as in the limits of a send. */
struct operation *operation_parse_topup(const char *body, size_t n, int64_t customer_id,
                                        struct operation_fault *fault);

/* Takes the value of an Idempotency-Key header and hashes the fields that count. 0, or -1 with
 * *fault. */
int operation_set_key(struct operation *op, const char *key, struct operation_fault *fault);

/* Notes the caller's tracestate. */
void operation_set_tracestate(struct operation *op, const char *tracestate);

void operation_free(struct operation *op); /* NULL is fine; does not answer */

#endif
