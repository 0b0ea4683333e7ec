#include "libcommon/domain/operator_file.h"

#include <stdio.h>
#include <string.h>

static const struct operator_config *namesake(const struct operator_set *set,
                                              const struct operator_config *op)
{
    return operator_set_find(set, op->name, strlen(op->name));
}

/* What of an operator others have kept since the start, and is not as it was. */
static const char *change_of(const struct operator_config *before,
                             const struct operator_config *after)
{
    if (before->kind != after->kind)
        return "is of another kind";
    if (before->receipts.given != after->receipts.given)
        return after->receipts.given ? "gives receipts now" : "gives no receipts any more";
    if (before->receipts.answer_id != after->receipts.answer_id)
        return "has another receipt.answer_id_form";
    return NULL;
}

/* NULL: none. */
static const char *change(const struct operator_set *before, const struct operator_set *after,
                          const char **name)
{
    const char *what = NULL;

    for (size_t i = 0; !what && i < after->n; i++) {
        *name = after->all[i]->name;
        if (!namesake(before, after->all[i]))
            what = "is new";
    }
    for (size_t i = 0; !what && i < before->n; i++) {
        *name = before->all[i]->name;
        if (!namesake(after, before->all[i]))
            what = "is gone";
    }
    for (size_t i = 0; !what && i < before->n; i++) { /* which has as many by now */
        *name = before->all[i]->name;
        what = strcmp(*name, after->all[i]->name) != 0 ? "has another place in the order"
                                                       : change_of(before->all[i], after->all[i]);
    }
    return what;
}

bool operator_set_may_follow(const struct operator_set *before, const struct operator_set *after,
                             char *why, size_t size)
{
    const char *name;
    const char *what = change(before, after, &name);

    if (what)
        snprintf(why, size, "[%s] %s: that takes a restart", name, what);
    return !what;
}
