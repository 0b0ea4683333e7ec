#include "api/cell_peer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/key_text.h"
#include "api/settings.h"
#include "libcommon/base/must.h"

#define GROUPS(peer_)                                \
    {                                                \
        {db_settings_rows, &(peer_)->db},            \
        {                                            \
            topology_settings_rows, &(peer_)->broker \
        }                                            \
    }
#define GROUP_COUNT 2

struct cell_peer *cell_peer_load(const char *cell, struct err *err)
{
    struct cell_peer *peer = must_alloc(1, sizeof(*peer));
    const struct settings_group groups[] = GROUPS(peer);
    struct buf errors = {0};
    char path[2048];
    size_t faults = 1;

    snprintf(peer->cell, sizeof(peer->cell), "%s", cell);
    snprintf(path, sizeof(path), "%s/%s.env", api_settings.cells_dir, cell);
    if (!key_text_cell_ok(cell))
        buf_puts(&errors, "a cell's name is 1 to 16 small letters and digits");
    else if (!*api_settings.cells_dir)
        buf_puts(&errors, "CELLS_DIR is not set: it has a file for each other cell");
    else
        faults = settings_load_file(groups, GROUP_COUNT, path, &errors);
    if (faults) {
        err_set(err, ERR_PERMANENT, 0, "cell %s: %.*s", cell,
                errors.data ? (int)strcspn(errors.data, "\n") : 0, errors.data ? errors.data : "");
        cell_peer_free(peer);
        peer = NULL;
    }
    buf_free(&errors);
    return peer;
}

void cell_peer_free(struct cell_peer *peer)
{
    if (!peer)
        return;
    settings_free((const struct settings_group[])GROUPS(peer), GROUP_COUNT);
    free(peer);
}
