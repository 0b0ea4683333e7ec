#ifndef LIBCOMMON_DOMAIN_OUTBOX_H
#define LIBCOMMON_DOMAIN_OUTBOX_H

/*
 * Work to do: rows of outbox_events, written in the caller's transaction, so that a message and the
 * wish to publish it stand or fall together. A row says its kind; whoever counts, publishes or
 * repairs names the kind it means. A row whose time has not come is no backlog.
 *
 * Each enqueue of a message has an event_type of its own (message.send, then message.retry.<n>); a
 * collision is an error, never ignored: the row it collides with may be about to be deleted.
 *
 * Functions named put append SQL and touch nothing; the others block. Lock order: recipients before
 * messages.
 */

#include "libcommon/db/db.h"
#include "libcommon/domain/message.h"
#include "libcommon/domain/topology.h"

enum outbox_kind {
    OUTBOX_DELIVER = 1, /* a message to be published to its lane */
    OUTBOX_ASK = 2,     /* the same for one that is held: its operators are to be asked. No backlog,
                           and never urgent */
};

/* "INSERT … VALUES", then a row each, separated by commas. n 0: message.send, else
 * message.retry.<n>. delay_ms 0: now, else that far ahead on the database's clock. payload is JSON
 * text. */
#define OUTBOX_INSERT                                                                \
    "INSERT INTO outbox_events(kind,aggregate_type,aggregate_id,event_type,payload," \
    "priority,next_run_at) VALUES "
void outbox_put_row(struct db *db, struct buf *sql, enum outbox_kind kind, const char *message_id,
                    unsigned n, enum message_type type, const struct buf *payload,
                    int64_t delay_ms);

/* "lane=… AND kind=…": the part of idx_outbox_poll in which a lane's rows of that kind lie. */
void outbox_put_part(struct buf *sql, enum message_type lane, enum outbox_kind kind);
/* What waits in the lanes, rows of one kind that are due. */
struct outbox_sample {
    int64_t pending[MESSAGE_LANES];   /* counted up to about a limit */
    int64_t since_sec[MESSAGE_LANES]; /* when the longest waiting one came due; 0: there is none */
    int64_t now_sec;                  /* of the database; all of them in Unix time */
};
/* One SELECT of one row: an answer a part would wake its reader as often. */
void outbox_put_sample(struct buf *sql, enum outbox_kind kind, int64_t limit);
void outbox_read_sample(struct db_set *set, struct outbox_sample *out);

/* "EXISTS (…)": the message whose identifier is in that column has a row, due or not: each of
 * either kind brings it to its lane. */
void outbox_put_exists(struct buf *sql, const char *column);
/* The same of OUTBOX_ASK alone: the message is held. */
void outbox_put_asked(struct buf *sql, const char *column);
/* Nothing is left to ask about the message. */
int outbox_forget_ask(struct db *db, const char *message_id, struct err *err);

/* A message that goes into the outbox again. */
struct outbox_entry {
    enum outbox_kind kind;
    const struct message *message; /* with the recipients that are left */
    const char *traceparent, *tracestate;
    int64_t accepted_us;
    int64_t delay_ms;
    unsigned enqueues; /* result of outbox_count: this is the n-th time after the first */
    bool missing;      /* result of outbox_count: `messages` has no such row, nothing is written */
};

void outbox_register(void); /* the statements' labels; at start */

/* Locks the rows of n different messages, which it sorts, and counts the enqueue. */
int outbox_count(struct db *db, struct outbox_entry *entries, size_t n, struct err *err);
/* Writes the rows of those that are not missing, after outbox_count in the same transaction. */
int outbox_write(struct db *db, const struct broker_settings *topology,
                 const struct outbox_entry *entries, size_t n, struct err *err);

#endif
