#ifndef API_PRESSURE_H
#define API_PRESSURE_H

/*
 * Is the outbox too full to accept more? One thread samples the database several times a second,
 * less often while nothing is accepted, with bounded statements; requests read the last sample plus
 * what was accepted since, never a table.
 */

#include <stdbool.h>
#include <stdint.h>

struct pressure;

struct pressure *pressure_start(void);        /* settings: api_settings */
void pressure_begin_stop(struct pressure *p); /* does not wait */
void pressure_stop(struct pressure *p);

/* True when sends must be refused. Any thread, O(1). */
bool pressure_high(const struct pressure *p);
/* n more outbox rows were committed by this process. */
void pressure_accepted(struct pressure *p, int64_t n);

#endif
