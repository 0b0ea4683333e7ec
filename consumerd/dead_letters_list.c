#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "consumerd/dead_letters_internal.h"

static struct db_label states_label = {.query = "dead_states"};

void dead_list_register(void)
{
    db_label_register(&states_label);
}

static void note_states(struct letter *l, struct db_results *results)
{
    char **row;

    while ((row = db_next(db_only(results)))) {
        enum recipient_state state;

        if (!recipient_state_parse(row[1], &state))
            continue;
        for (size_t i = 0; i < l->member_count; i++)
            if (!strcmp(l->members[i].id, row[0]))
                l->members[i].counts[state] = strtoull(row[2], NULL, 10);
    }
}

static int count_states(struct dead_session *d, struct letter *l, struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    int rc;

    buf_puts(&sql, "SELECT message_identifier,status,COUNT(*) FROM message_status "
                   "FORCE INDEX(uq_message_status_identifier_recipient) "
                   "WHERE message_identifier IN (");
    for (size_t i = 0; i < l->member_count; i++) {
        if (i)
            buf_putc(&sql, ',');
        db_put_quoted(d->db, &sql, l->members[i].id, strlen(l->members[i].id));
    }
    buf_puts(&sql, ") GROUP BY message_identifier,status");
    rc = db_run_buf(d->db, &states_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    note_states(l, &results);
    db_results_free(&results);
    return 0;
}

/* What became of the recipients since. A list without that is better than none. */
static void look_at_recipients(struct dead_session *d)
{
    struct err err = {0};
    int rc = d->n ? db_acquire(d->db, &err) : 0;

    for (size_t i = 0; !rc && i < d->n; i++) {
        dead_keep_alive(d);
        if (d->letters[i].member_count)
            rc = count_states(d, &d->letters[i], &err);
    }
    db_release(d->db);
    if (rc)
        fprintf(stderr, "msg-consumerd dead list: recipients not looked up: %s\n", err.msg);
}

/* Our queues have no limit but those of a policy at the broker. */
static bool fell_to_a_limit(const struct letter *l)
{
    return !strcmp(l->death_reason, "expired") || !strcmp(l->death_reason, "maxlen") ||
           !strcmp(l->death_reason, "delivery_limit");
}

int dead_list(struct dead_session *d, struct err *err)
{
    size_t fallen = 0;

    (void)err;
    look_at_recipients(d);
    for (size_t i = 0; i < d->n; i++) {
        letter_print(&d->letters[i]);
        fallen += fell_to_a_limit(&d->letters[i]);
    }
    if (fallen)
        fprintf(stderr,
                "msg-consumerd dead list: %zu of them fell to a limit that is not ours (expired, "
                "maxlen, delivery_limit): look at the broker's policies for our queues\n",
                fallen);
    return 0;
}

int dead_show(struct dead_session *d, struct err *err)
{
    for (size_t i = 0; i < d->n; i++) {
        const struct letter *l = &d->letters[i];

        if (!dead_is_wanted(d, l))
            continue;
        letter_show(l);
        return 0;
    }
    return err_set(err, ERR_PERMANENT, 0, "no letter %s", d->ids[0]);
}
