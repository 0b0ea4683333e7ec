#ifndef LIBCOMMON_BROKER_BROKER_NODES_H
#define LIBCOMMON_BROKER_BROKER_NODES_H

/*
 * RABBIT_URI as a list: the nodes of one cluster, each as a URI of its own, with commas between
 * them. A comma that no amqp:// or amqps:// follows belongs to the URI that it stands in. Which
 * node a connection goes to: each has a home of its own, so that a process's connections, and those
 * of many processes, are spread; from a node that fails it goes on to the next; away from home it
 * tries in time whether its home is back.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BROKER_NODES_MAX 16

/* At least 1. Pure. */
size_t broker_nodes_count(const char *list);
/* That URI of the list alone, which the caller frees and, because a password is in it, wipes. i:
 * below the count. Pure. */
char *broker_nodes_copy(const char *list, size_t i);
void broker_nodes_wipe(char *uri, size_t len); /* and free */

/* Whether every URI of it can be used; why not. A check of settings.h. Pure. */
bool broker_nodes_check(const char *list, char *why, size_t size);
struct amqp_connection_info;
const char *broker_nodes_vhost(const struct amqp_connection_info *to); /* "/" where none is named */

/* Another home for each that asks, in turn from a random one on. n: nodes, at least 1. */
size_t broker_nodes_home(size_t n);
/* Whether something takes connections there. Blocks for timeout_ms, and as long as a name takes to
 * be looked up. */
bool broker_nodes_answers(const char *host, int port, int timeout_ms);

#endif
