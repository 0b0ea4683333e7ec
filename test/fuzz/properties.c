/*
 * The properties of an AMQP message as they go over the wire: what is kept of a text is all of it,
 * and nothing is kept that the message does not say.
 */

#include <stdlib.h>

#include "libcommon/broker/broker_internal.h"
#include "test/fuzz/fuzz.h"

static bool is(amqp_bytes_t bytes, const char *text)
{
    return bytes.len == strlen(text) && (!bytes.len || !memcmp(bytes.bytes, text, bytes.len));
}

static const amqp_field_value_t *find(const amqp_table_t *headers, const char *name, int *at)
{
    while (*at < headers->num_entries) {
        const amqp_table_entry_t *entry = &headers->entries[(*at)++];

        if (is(entry->key, name))
            return &entry->value;
    }
    return NULL;
}

/* One of that name has it, whatever others say. */
static void check_header(const char *kept, size_t size, const char *name,
                         const amqp_table_t *headers)
{
    const amqp_field_value_t *value;
    bool found = !*kept;
    int at = 0;

    MUST(memchr(kept, '\0', size) != NULL);
    while (!found && (value = find(headers, name, &at)))
        found = (value->kind == AMQP_FIELD_KIND_UTF8 || value->kind == AMQP_FIELD_KIND_BYTES) &&
                is(value->value.bytes, kept);
    MUST(found);
}

/* A version that is too large for us is not ours. */
static void check_version(unsigned version, const amqp_table_t *headers)
{
    const amqp_field_value_t *value;
    bool found = !version;
    int at = 0;

    while (!found && (value = find(headers, BROKER_BUNDLE_VERSION, &at)))
        found = (value->kind != AMQP_FIELD_KIND_I64 || value->value.i64 == version) &&
                (value->kind != AMQP_FIELD_KIND_I32 || value->value.i32 == (int64_t)version);
    MUST(found);
}

static void check(const struct broker_incoming *in, const amqp_basic_properties_t *p)
{
    static const amqp_table_t none;
    const amqp_table_t *headers = p->_flags & AMQP_BASIC_HEADERS_FLAG ? &p->headers : &none;

    MUST(in->is_bundle ==
         (p->_flags & AMQP_BASIC_CONTENT_TYPE_FLAG && is(p->content_type, BROKER_BUNDLE_TYPE)));
    MUST(!*in->message_id ||
         (p->_flags & AMQP_BASIC_MESSAGE_ID_FLAG && is(p->message_id, in->message_id)));
    check_header(in->traceparent, sizeof(in->traceparent), "traceparent", headers);
    check_header(in->tracestate, sizeof(in->tracestate), "tracestate", headers);
    check_header(in->death_reason, sizeof(in->death_reason), DEATH_REASON, headers);
    check_header(in->death_queue, sizeof(in->death_queue), DEATH_QUEUE, headers);
    check_version(in->bundle, headers);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    amqp_bytes_t encoded = amqp_bytes_malloc(size + !size); /* its type is not const */
    struct broker_incoming *in = must_alloc(1, sizeof(*in));
    amqp_pool_t pool;
    void *decoded;

    MUST(encoded.bytes != NULL);
    memcpy(encoded.bytes, data, size);
    encoded.len = size;
    init_amqp_pool(&pool, 4096);
    memset(in, 'x', sizeof(*in)); /* of the message before */
    if (!amqp_decode_properties(AMQP_BASIC_CLASS, &pool, encoded, &decoded)) {
        broker_read_properties(in, decoded);
        check(in, decoded);
    }
    empty_amqp_pool(&pool);
    amqp_bytes_free(encoded);
    free(in);
    return 0;
}
