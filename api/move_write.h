#ifndef API_MOVE_WRITE_H
#define API_MOVE_WRITE_H

/*
 * Writes rows of a customer's table (move_table.h) in the cell that the customer comes to, over
 * what is there, some hundreds in a statement. Numbers are looked up for a whole statement at once.
 * Blocks.
 */

#include <stdint.h>

#include "api/move_table.h"

struct move_writer;

void move_write_register(void);

/* lives: rows come while they are read, so that what a row belongs to may not be there yet: it is
 * left for another time. Otherwise that is ERR_BUG. NULL: memory is out. */
struct move_writer *move_writer_new(struct db *there, int64_t customer_id,
                                    const struct move_table *table, bool lives);
void move_writer_free(struct move_writer *w);
/* A row as it was read, a column for each of the table's. It may be written later. */
int move_writer_put(struct move_writer *w, char **row, const unsigned long *lengths,
                    struct err *err);
/* What is not written yet; after a failure nothing is. */
int move_writer_flush(struct move_writer *w, struct err *err);

#endif
