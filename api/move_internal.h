#ifndef API_MOVE_INTERNAL_H
#define API_MOVE_INTERNAL_H

/* What move.c (all of a move), move_check.c (whether it may be), move_steps.c (its steps) and
 * move_list.c (what moves there are) share; nobody else includes this. */

#include "api/cell_peer.h"
#include "api/move.h"
#include "api/move_copy.h"
#include "libcommon/domain/customer_move.h"
#include "libcommon/domain/recipient_move.h"

struct move {
    struct move_order order;
    struct cell_peer *peer;
    struct db_settings settings[MOVE_SIDES]; /* patient */
    struct db *here, *there;
    struct customer_move at_home, away; /* as each side has it */
    struct move_figures figures[MOVE_TABLES];
    uint64_t different; /* spans, of the last pass */
    size_t table;       /* of the pass */
    struct recipient_leaving leaving;
    uint64_t taken;
    int64_t began_ms, left_ms;
    int64_t keys_ms; /* when keys came there; 0: they have been there */
    bool lives;      /* is copied while it goes on */
    bool has_endpoints, is_calling;
};

typedef int move_step_fn(struct move *m, struct err *err);

extern struct db_label move_label;

/* ---- move.c ---- */

/* Both connections, and then the step, until it works or has been tried for long: each finds out
 * what of it is done. */
int move_again(struct move *m, move_step_fn *step, struct err *err);
/* Ends a step's transaction, well or not. */
int move_end(struct db *db, int rc, struct err *err);

/* ---- move_check.c ---- */

/* Whether the customer may move, and what each side says of it. */
int move_look(struct move *m, struct err *err);
int move_read_states(struct move *m, struct err *err);
bool move_is_on_the_way(enum customer_move_state state);
bool move_is_after_switch(const struct move *m);

/* ---- move_steps.c: in their order, but for the last; each may be done again ---- */

int move_arrive(struct move *m, struct err *err);
int move_begin_copying(struct move *m, struct err *err);
int move_pass(struct move *m, struct err *err);
int move_copy_live(struct move *m, struct err *err);
int move_leave(struct move *m, struct err *err);
int move_drain(struct move *m, struct err *err);
int move_freeze(struct move *m, struct err *err);
int move_await_calls(struct move *m, struct err *err);
void move_print_figures(const struct move *m);
int move_copy_rest(struct move *m, struct err *err);
int move_switch_there(struct move *m, struct err *err);
int move_here(struct move *m, struct err *err);
int move_take_in_there(struct move *m, struct err *err);
int move_take_in_here(struct move *m, struct err *err);

#endif
