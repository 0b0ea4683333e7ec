#ifndef CONSUMERD_DEAD_LETTERS_INTERNAL_H
#define CONSUMERD_DEAD_LETTERS_INTERNAL_H

/*
 * What dead_letters.c (the command line; which letters and messages a verb is about),
 * dead_letters_queue.c (taking letters from the queue and giving them back), dead_letters_list.c,
 * dead_letters_replay.c and dead_letters_drop.c share; nobody else includes this. One thread, one
 * run of a verb.
 */

#include "consumerd/dead_letters.h"
#include "consumerd/letter.h"
#include "libcommon/db/db.h"

#define DEAF_MAX 16 /* letters that cannot be read which a run steps over: a connection each */

struct dead_session {
    const struct settings *settings;
    const char *queue;
    struct broker *in, *back, *out[MESSAGE_LANES]; /* each of out declares its lane's queue */
    struct broker
        *deaf[DEAF_MAX]; /* were in: hold what they took, and then one that nobody reads */
    size_t deaf_count;
    struct db *db;
    struct letter *letters;
    size_t n, wanted, ready; /* letters taken, to be taken, there when we came */
    size_t kept_bytes;       /* of those taken, in our memory */
    size_t spared;           /* messages that are not to be dropped now */
    uint32_t readers;        /* others: what they have in hand is not seen */
    bool dry_run, all;
    bool only_unreadable; /* drop: those, which have no other name */
    bool unreadable;      /* in met one, of that tag, behind those taken */
    bool singly;          /* one is among them: letters are taken one at a time */
    uint64_t unreadable_tag;
    char **ids;
    size_t id_count;
    uint64_t wanted_tag; /* the confirm that is waited for */
    bool confirmed, refused;
};

/* dead_letters_queue.c */
void dead_keep_alive(struct dead_session *d);
int dead_gather(struct dead_session *d, struct err *err);
int dead_gather_readable(struct dead_session *d, struct err *err); /* up to the first that is not */
void dead_forget(struct dead_session *d); /* the letters taken; they stay with the connection */
int dead_publish(struct dead_session *d, struct broker *out, const struct broker_message *m,
                 struct err *err); /* and waits until it is confirmed */
int dead_settle(struct letter *l, struct err *err);
int dead_put_all_back(struct dead_session *d, struct err *err);
bool dead_saw_all(const struct dead_session *d, const char *verb); /* says what not */
int dead_give_back(struct dead_session *d, struct err *err);

/* What is done with each message of a letter; err tells why it could not be. */
struct acting {
    struct dead_session *d;
    const struct letter *letter;
    bundle_member_fn *act;
    bool whole; /* with all of them, not only those that were named */
    bool stays; /* the letter: its one message was spared */
    size_t refunded;
    struct err *err;
};

typedef int dead_act_fn(struct acting *a);

/* dead_letters.c */
bool dead_is_wanted(const struct dead_session *d, const struct letter *l);
/* act for those that are meant. err is what act says, or why there is none. */
int dead_act_on_members(struct acting *a, bundle_member_fn *act);
int dead_keep_apart(struct acting *a, const struct bundle_member *m); /* as a letter of its own */

/* dead_letters_list.c */
void dead_list_register(void);
int dead_list(struct dead_session *d, struct err *err);
int dead_show(struct dead_session *d, struct err *err);

/* dead_letters_replay.c */
dead_act_fn dead_replay;

/* dead_letters_drop.c */
void dead_drop_register(void);
dead_act_fn dead_drop;
int dead_drop_unreadable(struct dead_session *d, struct err *err);

#endif
