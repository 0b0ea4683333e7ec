#ifndef TEST_UNIT_FAKE_BROKER_H
#define TEST_UNIT_FAKE_BROKER_H

/*
 * The functions of libcommon/broker/broker.h without a broker. A suite that calls anything of this
 * header gets them in place of libcommon's (the linker takes what it finds first).
 *
 * Everything that is asked of it works and is recorded (fake_broker_calls); what comes back from
 * the broker is written down beforehand, a batch of events for each broker_pump (HEARS). A pump for
 * which nothing was written down waits for its timeout and hears nothing, as at a silent broker.
 * Every channel counts its tags from 1, in the order of broker_publish. A publish without an open
 * connection, or on a channel that was closed, fails the test, and so does a batch of events that
 * nobody fetched (fake_broker_end).
 *
 * One connection, on any one thread.
 */

#include "libcommon/broker/broker.h"

#define HEARS(...)                                                         \
    fake_broker_hears((const struct broker_event[]){__VA_ARGS__},          \
                      sizeof((const struct broker_event[]){__VA_ARGS__}) / \
                          sizeof(struct broker_event))
/* Copied, but for their texts. */
void fake_broker_hears(const struct broker_event *events, size_t n);
void fake_broker_hears_nothing(void); /* a pump that comes back at once */

void fake_broker_begin(void); /* before a test: forgets everything */
void fake_broker_end(void);   /* after it: everything that was to be heard has been */

struct broker *fake_broker_new(void); /* open, its channel in confirm mode; broker_free */
void fake_broker_block(bool blocked);
/* The n-th call of that name from now on ("publish", "flush", "pump", "declare", "reopen", "open",
 * "depth") fails and closes the connection; 1: the next. */
void fake_broker_fails(const char *call, unsigned n);
void fake_broker_depth(const char *queue, uint32_t ready); /* what broker_depth says */

/* What was called, in words with a space between them, some with what they were for:
 * "publish:m-1 bundle:m-2 flush declare depth:normal consume:1 ack:5 dead_letter:6 drop". Pumps are
 * not recorded. */
const char *fake_broker_calls(void);
/* The i-th message that was published, a copy; valid until fake_broker_end. */
const struct broker_message *fake_broker_published(size_t i);

#endif
