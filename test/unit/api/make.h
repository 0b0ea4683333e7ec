#ifndef TEST_UNIT_API_MAKE_H
#define TEST_UNIT_API_MAKE_H

/* Operations as the HTTP side makes them, for suites of what becomes of them. */

#include <check.h>
#include <stdio.h>
#include <string.h>

#include "api/operation.h"

#define MAKE_SEND_PRICE 20

/* A send to two recipients: costs MAKE_SEND_PRICE. */
static inline struct operation *make_send(int customer, const char *text)
{
    static const struct price_settings prices = {.of = {[MESSAGE_NORMAL] = MAKE_SEND_PRICE / 2}};
    const struct operation_limits limits = {.max_recipients = 10, .prices = &prices};
    struct operation_fault fault;
    struct operation *op;
    char body[256];

    snprintf(body, sizeof(body),
             "{\"customer_id\":%d,\"text\":\"%s\",\"recipients\":[\"0912\",\"0913\"],"
             "\"type\":\"normal\"}",
             customer, text);
    op = operation_parse_send(body, strlen(body), &limits, &fault);
    ck_assert_ptr_nonnull(op);
    return op;
}

static inline struct operation *make_topup(int customer, const char *amount)
{
    struct operation_fault fault;
    struct operation *op;
    char body[128];

    snprintf(body, sizeof(body), "{\"user_id\":%d,\"balance\":%s}", customer, amount);
    op = operation_parse_topup(body, strlen(body), 0, &fault);
    ck_assert_ptr_nonnull(op);
    return op;
}

#endif
