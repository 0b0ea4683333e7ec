#ifndef LIBCOMMON_DB_DB_SERVERS_H
#define LIBCOMMON_DB_DB_SERVERS_H

/*
 * The servers that DB_HOST or DB_READ_HOST names: one, or a primary and its replicas in any order.
 * Only db.c uses this. Of one there is nothing to choose. Of several, a thread for each asks it
 * twice a second whether it takes writes, and the process works with the only one that does: with
 * none while two do, because one of them has missed what the other was told. A server that
 * replicates from another takes no writes, whatever it says. The one that was chosen stays so until
 * another takes its place: it may only be slow, or starting again.
 *
 * Shared by all connections of the process to the same list; any thread. db_servers_pick may wait
 * for the first answers, as long as a connection may take; the rest does not block.
 */

#include <stdbool.h>
#include <stddef.h>

#include "libcommon/base/err.h"
#include "libcommon/db/db.h"

#define DB_SERVERS_MAX 8
#define DB_SERVER_HOST_MAX 255

struct db_server {
    char host[DB_SERVER_HOST_MAX + 1];
    unsigned port;
};

/* host, host:port or [address]:port, with commas between them; port: of those without one. Their
 * number; 0: it is malformed. Pure. */
size_t db_servers_parse(const char *list, unsigned port, struct db_server servers[DB_SERVERS_MAX]);

enum db_server_state {
    DB_SERVER_UNKNOWN, /* not asked yet */
    DB_SERVER_AWAY,
    DB_SERVER_READ_ONLY,
    DB_SERVER_WRITABLE,
};

#define DB_SERVER_NONE (-1)

struct db_servers_choice {
    int current; /* whom to work with, or DB_SERVER_NONE */
    bool split;  /* more than one takes writes */
};

/* What follows from the states of n servers; before: the current one so far. Pure. */
struct db_servers_choice db_servers_choose(const enum db_server_state *states, size_t n,
                                           int before);

struct db_servers;
/* Begins to watch, when there are several and nobody does yet. */
struct db_servers *db_servers_join(const struct db_settings *settings);
void db_servers_leave(struct db_servers *s); /* the last one ends the watch */

enum db_use {
    DB_USE_WRITES, /* only a server that takes writes */
    DB_USE_READS,  /* the same one, also while it takes none */
    DB_USE_COPY,   /* any that answers */
};

/* Which server to connect to, or ERR_RETRY and why none. */
int db_servers_pick(struct db_servers *s, enum db_use use, size_t *server, struct err *err);
const struct db_server *db_servers_at(const struct db_servers *s, size_t server);

/* Grows whenever connections that were opened before should not be used again: behind a name, or in
 * the list, there may be another server than before. What a server refused to one connection of the
 * process it will refuse to the others, and once it takes writes again they may still lead to its
 * predecessor. */
unsigned db_servers_generation(const struct db_servers *s);
/* It refused a write on a connection of that generation. */
void db_servers_refused(struct db_servers *s, size_t server, unsigned generation);
void db_servers_took_writes(struct db_servers *s);
/* A connection to one was lost, or not to be had: all are asked at once. */
void db_servers_doubt(struct db_servers *s);

/* While a connection is open: its socket is shut down when its server is no longer the current one,
 * so that nobody waits for an answer of it. INVARIANT: removed before the socket is closed. */
struct db_servers_link {
    struct db_servers_link *next, **at;
    size_t server;
    int fd;
};
void db_servers_add(struct db_servers *s, struct db_servers_link *link);
void db_servers_remove(struct db_servers *s, struct db_servers_link *link); /* not added: fine */

#endif
