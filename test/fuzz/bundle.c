/*
 * The body of an AMQP message that is a bundle: every member is a message or says why not, what is
 * written of the members again has the same ones, and a dead letter with that body tells the same.
 */

#include "libcommon/domain/bundle.h"
#include "consumerd/letter.h"
#include "test/fuzz/fuzz.h"

struct members {
    size_t count;
    size_t messages;
    struct buf again; /* a bundle of those that fit */
    size_t again_count;
};

static void check_alone(const struct bundle_member *m)
{
    struct buf alone = {0};
    struct message message;
    struct err err;

    MUST(bundle_put_alone(&alone, m->json, m->json_len));
    MUST(!message_decode(alone.data, alone.len, &message, &err));
    MUST(!strcmp(message.id, m->message->id) && message.text_len == m->message->text_len);
    message_free(&message);
    buf_free(&alone);
}

static bool take(const struct bundle_member *m, void *arg)
{
    struct members *members = arg;

    MUST(!m->message == (m->why != NULL));
    MUST(m->id && m->traceparent && m->tracestate);
    members->count++;
    if (!m->message)
        return true;
    members->messages++;
    check_alone(m);
    {
        struct buf body = {0};
        struct bundle_entry e = {.traceparent = m->traceparent,
                                 .tracestate = m->tracestate,
                                 .accepted_us = m->accepted_us};

        message_put_json(&body, m->message);
        e.body = body.data;
        e.body_len = body.len;
        if (bundle_takes(&e) && bundle_size_with(&members->again, &e) <= BUNDLE_BYTES_MAX) {
            size_t before = members->again.len;
            size_t bound = bundle_size_with(&members->again, &e);

            bundle_add(&members->again, &e);
            MUST(members->again.len > before && members->again.len <= bound);
            members->again_count++;
        }
        buf_free(&body);
    }
    return true;
}

static bool count(const struct bundle_member *m, void *arg)
{
    MUST(m->message != NULL);
    ++*(size_t *)arg;
    return true;
}

static void check_letter(const uint8_t *data, size_t size, size_t members)
{
    const struct broker_event event = {.message_id = "id",
                                       .traceparent = "",
                                       .tracestate = "",
                                       .death_reason = "",
                                       .death_queue = "",
                                       .is_bundle = true,
                                       .bundle = BUNDLE_VERSION,
                                       .body = data,
                                       .body_len = size};
    struct letter letters[2];

    MUST(letter_take(&letters[0], &event, 1) && letter_take(&letters[1], &event, 2));
    MUST(letters[0].member_count == members);
    letters_mark_copies(letters, 2);
    for (size_t i = 0; i < members; i++)
        MUST(letters[1].members[i].copy == (*letters[1].members[i].id != '\0'));
    letter_free(&letters[0]);
    letter_free(&letters[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct members members = {0};
    struct err err = {0};
    size_t n = 0;

    bundle_begin(&members.again);
    if (bundle_read(BUNDLE_VERSION, (const char *)data, size, take, &members, &err))
        MUST(err.kind == ERR_PERMANENT && !members.count);
    else
        MUST(members.count > 0);
    check_letter(data, size, members.count);
    bundle_end(&members.again);
    if (members.again_count) {
        MUST(!bundle_read(BUNDLE_VERSION, members.again.data, members.again.len, count, &n, &err));
        MUST(n == members.again_count);
    }
    buf_free(&members.again);
    return 0;
}
