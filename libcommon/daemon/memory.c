#include "libcommon/daemon/memory.h"

#include <malloc.h>
#include <stdbool.h>
#include <stdio.h>
#include <unistd.h>

#define LOOK_MS 5000
#define WORTH_BYTES (8u << 20)

static int64_t next_look_ms;
static size_t least_idle = SIZE_MAX;

static size_t resident(void)
{
    FILE *f = fopen("/proc/self/statm", "re");
    size_t pages = 0;

    if (f && fscanf(f, "%*u %zu", &pages) != 1)
        pages = 0;
    if (f)
        fclose(f);
    return pages * (size_t)sysconf(_SC_PAGESIZE);
}

/* The program itself, stacks and libraries are in it: they do not change much. */
static size_t idle(void)
{
    struct mallinfo2 info = mallinfo2();
    size_t used = info.uordblks + info.hblkhd;
    size_t all = resident();

    return all > used ? all - used : 0;
}

bool memory_worth(size_t idle_bytes, size_t *least)
{
    if (idle_bytes < *least)
        *least = idle_bytes;
    return idle_bytes > *least + WORTH_BYTES;
}

void memory_give_back(int64_t now_ms)
{
    if (now_ms < next_look_ms)
        return;
    next_look_ms = now_ms + LOOK_MS;
    if (!memory_worth(idle(), &least_idle))
        return;
    malloc_trim(0);
    least_idle = idle();
}
