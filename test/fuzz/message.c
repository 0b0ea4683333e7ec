/* The body of an AMQP message: what is read out of it, written again, reads the same. */

#include "libcommon/domain/message.h"
#include "libcommon/base/utf8.h"
#include "test/fuzz/fuzz.h"

static void check(const struct message *m)
{
    MUST(m->customer_id > 0 && m->recipient_count > 0 && message_text_ok(m->text, m->text_len));
    MUST(*m->id && *m->transaction_id && utf8_ok(m->id, strlen(m->id)));
    for (size_t i = 0; i < m->recipient_count; i++)
        MUST(message_recipient_ok(m->recipients[i], strlen(m->recipients[i])));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct message m;
    struct message again;
    struct buf text = {0};
    struct err err = {0};

    if (message_decode((const char *)data, size, &m, &err)) {
        MUST(err.kind == ERR_PERMANENT && *err.msg);
        return 0;
    }
    check(&m);
    message_put_json(&text, &m);
    MUST(!message_decode(text.data, text.len, &again, &err));
    fuzz_same_message(&m, &again);
    message_free(&again);
    message_free(&m);
    buf_free(&text);
    return 0;
}
