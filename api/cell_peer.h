#ifndef API_CELL_PEER_H
#define API_CELL_PEER_H

/*
 * How the other cells' databases are reached: a file <cell>.env in the folder CELLS_DIR for each,
 * with the settings DB_HOST to DB_PASSWORD (or DB_PASSWORD_FILE) as that cell's own daemons have
 * them, the account may be another one, and the names of its exchange and queues where they are not
 * the usual ones. Blocks for as long as reading a file takes; not
 * thread-safe, like all loading of settings: a process has one thread that uses it.
 */

#include "libcommon/db/db.h"
#include "libcommon/domain/topology.h"

struct cell_peer {
    char cell[32];
    struct db_settings db;
    struct broker_settings broker; /* what topology_settings_rows set of it */
};

/* NULL with *err, ERR_PERMANENT: there is no such file, or it is wrong. */
struct cell_peer *cell_peer_load(const char *cell, struct err *err);
void cell_peer_free(struct cell_peer *peer); /* NULL is fine */

#endif
