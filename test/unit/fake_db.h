#ifndef TEST_UNIT_FAKE_DB_H
#define TEST_UNIT_FAKE_DB_H

/*
 * The functions of libcommon/db/db.h without a server: what they answer stands in the test. A suite
 * that calls anything of this header gets them in place of db.c (the linker takes what it finds
 * first); the code under test is the shipped one.
 *
 * A test writes down, in order, every packet that is to run (EXPECT): its label, what its SQL must
 * say and must not, and its answer. Anything else that runs fails the test with a sentence; so does
 * what was expected and never ran (fake_db_end). Beginnings and rollbacks are not expected one by
 * one but recorded with the rest: fake_db_ran.
 *
 * As with a server: a lost connection takes its transaction along, and nothing runs before the next
 * db_acquire. After a failed statement a transaction must be rolled back, or to a savepoint:
 * whatever else is done in it fails the test. A label must have been registered.
 *
 * Whether a COMMIT whose answer was lost took place (FAKE_LOST) shows in what the script answers to
 * those who look.
 *
 * Any thread may run what is expected; the rest belongs to the test's own.
 */

#include "libcommon/db/db.h"

/* Error numbers of the server and of the client's library. */
enum {
    FAKE_SYNTAX = 1064, /* ERR_BUG */
    FAKE_NULL = 1048,   /* ERR_PERMANENT, as are the next four */
    FAKE_NO_COMPARISON = 1267,
    FAKE_DUPLICATE = 1062,
    FAKE_TOO_LARGE = 1153,
    FAKE_OUT_OF_RANGE = 1690, /* the rest: ERR_RETRY */
    FAKE_LOCK_WAIT = 1205,
    FAKE_DEADLOCK = 1213,
    FAKE_READ_ONLY = 1290,
    FAKE_AWAY = 2002, /* no connection */
    FAKE_LOST = 2013, /* the connection broke before the answer came */
};

/* Rows as text: columns between '|', rows between '\n', "\\N" for NULL; "": a SELECT that found
 * nothing; NULL: no SELECT. */
struct fake_db_answer {
    const char *name; /* of the packet's statement */
    const char *rows;
    uint64_t affected;
};

struct fake_db_step {
    const char *query; /* the label; or "commit", "acquire", "end_lost_session" */
    const char *has[5], *lacks[4];
    struct fake_db_answer
        answers[4];   /* of a packet; a named statement that is not here did nothing */
    const char *rows; /* of a single statement */
    uint64_t affected;
    unsigned error;          /* it fails with that number */
    void (*meanwhile)(void); /* called while it runs */
};

/* EXPECT("label", .field = value, …). Texts are borrowed until the test has ended. "acquire" and
 * "end_lost_session" succeed where nothing is expected of them; the latter says which, "session 1"
 * being a connection's first. */
#define EXPECT(...) fake_db_expect(&(struct fake_db_step){.query = __VA_ARGS__})
void fake_db_expect(const struct fake_db_step *step);

void fake_db_begin(void); /* before a test: forgets everything */
void fake_db_end(void);   /* after it: everything that was expected has run */

struct db *fake_db_new(void); /* connected; db_free */

/* What db_takes_blocks says until the test ends; no is where a test begins. */
void fake_db_set_takes_blocks(bool yes);

/* What db_packet_max says until the test ends. A larger packet is no step of the script: it fails
 * as it does before it is sent, and is recorded as "too_large". */
#define FAKE_PACKET_MAX (16u << 20)
void fake_db_set_packet_max(size_t bytes);

/* What ran, in words with a space between them: "begin settle_done commit"; and "rollback", "drop",
 * "end_lost_session". */
const char *fake_db_ran(void);
/* The SQL that ran last under that label. */
const char *fake_db_sql(const char *query);

#endif
