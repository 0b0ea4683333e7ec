#include "consumerd/transport.h"

#include <stdio.h>

#include "libcommon/base/must.h"

static struct transport_link *link_of(const struct transport *transport,
                                      struct transport_link *const *links, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (links[i]->transport == transport)
            return links[i];
    return NULL;
}

void transport_open_all(const struct transport_config *config, struct transport_link *links[])
{
    for (size_t op = 0; op < config->operator_count; op++) {
        const struct transport *t = config->operators[op].transport;

        links[op] = link_of(t, links, op);
        if (!links[op])
            links[op] = t->open(config);
    }
}

void transport_close_all(struct transport_link *links[], size_t n)
{
    for (; n; n--)
        if (!link_of(links[n - 1]->transport, links, n - 1))
            links[n - 1]->transport->close(links[n - 1]);
}

const struct transport *transport_of_kind(enum operator_kind kind)
{
    static const struct transport *const transports[OPERATOR_KINDS] = {
        [OPERATOR_NATIVE] = &transport_native,
        [OPERATOR_HTTP] = &transport_carrier,
    };

    return transports[kind];
}

void transport_reference(const struct job *job, char out[TRANSPORT_REFERENCE_MAX])
{
    snprintf(out, TRANSPORT_REFERENCE_MAX, "%s-%u", job->message->id, job->position);
}
