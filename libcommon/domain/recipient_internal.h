#ifndef LIBCOMMON_DOMAIN_RECIPIENT_INTERNAL_H
#define LIBCOMMON_DOMAIN_RECIPIENT_INTERNAL_H

/* What recipient.c (states, rows), recipient_change.c (transitions), recipient_event.c,
 * recipient_packet.c, recipient_restore.c, recipient_move.c, recipient_receipt.c and
 * recipient_deliveries.c share; nobody else includes this. */

#include "libcommon/domain/recipient.h"

void recipient_change_register(void);
void recipient_event_register(void);
void recipient_packet_register(void);
void recipient_restore_register(void);
void recipient_receipt_register(void);
void recipient_deliveries_register(void);
void recipient_move_register(void);

/* ---- recipient.c ---- */

/* The inside of an IN list. */
void recipient_put_messages(struct db *db, struct buf *sql, const char *const *message_ids,
                            size_t n);
/* All rows of these messages, locked, as recipient_read reads them. */
void recipient_put_lock(struct db *db, struct buf *sql, const char *const *message_ids, size_t n);
/* set is of rows->results, which belong to rows from then on, whatever becomes of it. */
int recipient_read(struct recipient_rows *rows, struct db_set *set, struct err *err);

/* ---- recipient_change.c ---- */

void recipient_put_from(struct buf *sql, enum recipient_transition transition);
const char *recipient_to_name(enum recipient_transition transition);
bool recipient_may(enum recipient_transition transition, enum recipient_state from);
void recipient_sort(struct recipient_change *changes, size_t n); /* by id */
int recipient_pass(struct db *db, enum recipient_transition transition,
                   struct recipient_change *changes, size_t n, struct err *err);
void recipient_mark_changed(enum recipient_transition transition, struct recipient_change *changes,
                            size_t n);
/* What a packet that has delivered has left out: sets each one's result to ALREADY or LOST. */
int recipient_look(struct db *db, uint64_t owner, struct recipient_change *changes, size_t n,
                   struct err *err);

/* ---- recipient_event.c ---- */

/* Whether n changes, all of those with that transition HELD and made, are anything that an endpoint
 * may want to hear of. Put: the statement that writes it down, of at most 500. */
bool recipient_wants_events(enum recipient_transition transition,
                            const struct recipient_change *changes, size_t n);
void recipient_put_events(struct buf *sql, enum recipient_transition transition,
                          const struct recipient_change *changes, size_t n);
/* Both, of any number. */
int recipient_write_events(struct db *db, enum recipient_transition transition,
                           const struct recipient_change *changes, size_t n, struct err *err);

/* A row does not grow where it lies: what a claim writes takes the eight bytes of a time from the
 * room that it was born with (sql/0014), what ends an attempt takes the rest. */
#define RECIPIENT_ROOM_CLAIMED "room=LEFT(room,40)"
#define RECIPIENT_ROOM_SETTLED "room=''"

/* ---- recipient_deliveries.c: the table of that name ---- */

#define RECIPIENT_PART_BYTES 4
#define RECIPIENT_PARTS_MAX 63

/* A row: one operator, one recipient. */
struct recipient_line {
    uint64_t status_id;
    char name[31];
    char match_id[129];
    enum recipient_delivery state;
    unsigned parts;
    uint8_t seen[RECIPIENT_PARTS_MAX * RECIPIENT_PART_BYTES];
    size_t seen_count;
    int64_t waited_ms;                       /* since the recipient was done; -1: not known */
    const struct recipient_receipt *decided; /* by it, just now; NULL: as the row says */
    bool fresh, dirty;
    size_t next; /* another one of the recipient, an index beyond 0 */
};

/* The statement that writes the rows of all that changes ask for; false, and nothing appended, when
 * they ask for none (so begin it afterwards: recipient_asks). */
bool recipient_asks(const struct recipient_change *changes, size_t n);
void recipient_put_asked(struct db *db, struct buf *sql, const struct recipient_change *changes,
                         size_t n, int64_t wait_hours);
/* All lines of these recipients, in the order of recipients; and a line of a row of its answer. */
void recipient_put_lines(struct buf *sql, const uint64_t *ids, size_t n);
void recipient_read_line(char **row, const unsigned long *lengths, struct recipient_line *line);
/* Those that are dirty; 0 of them: nothing is done. */
int recipient_write_lines(struct db *db, const struct recipient_line *lines, size_t n,
                          int64_t wait_hours, struct err *err);

/* ---- recipient_packet.c ---- */

/* DELIVER, of rows of that owner, or CONFIRM, of rows that are locked: n changes, sorted by id, all
 * to be made. */
void recipient_put_delivered(struct db *db, struct buf *sql, enum recipient_transition transition,
                             uint64_t owner, const struct recipient_change *changes, size_t n);

/* The mark beside the names that are there, which may be of operators that are gone. */
#define RECIPIENT_MARKED                                                   \
    "CASE WHEN FIND_IN_SET('" RECIPIENT_UNKNOWN_ANY "',unknown_operators)" \
    " THEN unknown_operators"                                              \
    " WHEN unknown_operators='' THEN '" RECIPIENT_UNKNOWN_ANY "'"          \
    " WHEN OCTET_LENGTH(unknown_operators)>253"                            \
    " THEN '" RECIPIENT_UNKNOWN_ANY "," RECIPIENT_UNKNOWN_MORE "'"         \
    " ELSE CONCAT(unknown_operators,'," RECIPIENT_UNKNOWN_ANY "') END"

#endif
