#ifndef API_MOVE_TABLE_H
#define API_MOVE_TABLE_H

/*
 * What belongs to a customer, table by table and column by column, for a move to another cell
 * (move_copy.h). A table or a column that is nowhere here stops every move before it begins
 * (move_table_check), so that nothing of a customer is ever left behind unseen: whoever adds one
 * says here how it moves, or that it does not and why.
 *
 * Where a row is and what it says is given in SQL for both sides: here is the cell that is left,
 * there the one that is come to. Numbers that each cell gives itself (AUTO_INCREMENT) are read as
 * what they stand for, and written as what stands for it there.
 */

#include <stdbool.h>
#include <stddef.h>

#include "libcommon/db/db.h"

enum move_side { MOVE_HERE, MOVE_THERE, MOVE_SIDES };

/* Templates may hold {customer}, and the sets of recipient_put_template. */
struct move_column {
    const char *name; /* NULL: read, and not written (the second half of a recipient) */
    const char *value[MOVE_SIDES]; /* read; NULL: t.<name>, and there as here */
    const char *written;           /* SQL with {0}, the value; NULL: the value */
    bool bytes;                    /* not text */
};

/* What a table's first column, a number of this cell's, is read as, and written by. */
enum move_number {
    MOVE_NO_NUMBER,
    MOVE_OF_ENDPOINT,  /* the number in the cell that is left; what it has become there */
    MOVE_OF_RECIPIENT, /* message and recipient, two columns; their row there */
};

struct move_table {
    const char *name;
    const char *rows[MOVE_SIDES]; /* "… t … WHERE …": the customer's; NULL: there as here */
    const struct move_column *columns;
    const char *const *unmoved; /* columns that the other cell fills itself */
    const char *moment; /* a time that a row keeps: what is compared is compared by it; NULL: all at
                         * once */
    const char *place;  /* what a span's rows lie between on their side */
    const char *sum;    /* an amount; NULL: none */
    unsigned span_sec;
    enum move_number number;
    bool by_number; /* place is a number that rows are read in the order of, a page at a time */
    bool shrinks;   /* rows may go */
    bool is_ledger; /* written by ledger_take_in alone */
};

#define MOVE_TABLES 9
extern const struct move_table move_tables[MOVE_TABLES];
/* What ends a table's columns. */
bool move_column_is_last(const struct move_column *column);

/* Whether db has no table and no column but those that are known. ERR_PERMANENT names the first
 * that is not. Blocks. */
int move_table_check(struct db *db, struct err *err);

/* Appends template with {customer} and the sets in it replaced. */
void move_table_put(struct buf *sql, const char *template, long long customer_id);

#endif
