/*
 * Runs files, and those of folders, through a fuzz target once each: its seeds as a test.
 * usage: fuzz_<target> FILE|FOLDER...
 */

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "test/fuzz/fuzz.h"

static size_t runs;

static void run_file(const char *path, size_t size)
{
    FILE *f = fopen(path, "re");
    uint8_t *data = malloc(size ? size : 1);

    MUST(f && data);
    if (fread(data, 1, size, f) != size) {
        fprintf(stderr, "%s cannot be read\n", path);
        exit(EXIT_FAILURE);
    }
    fclose(f);
    fprintf(stderr, "%s\n", path); /* first: it may be the last word */
    (void)LLVMFuzzerTestOneInput(data, size);
    free(data);
    runs++;
}

static void run(const char *path);

static int is_visible(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

static void run_folder(const char *path)
{
    struct dirent **entries = NULL;
    int n = scandir(path, &entries, is_visible, alphasort);

    for (int i = 0; i < n; i++) {
        char name[4096];

        snprintf(name, sizeof(name), "%s/%s", path, entries[i]->d_name);
        run(name);
        free(entries[i]);
    }
    free(entries);
}

static void run(const char *path)
{
    struct stat st;

    if (stat(path, &st)) {
        perror(path);
        exit(EXIT_FAILURE);
    }
    if (S_ISDIR(st.st_mode))
        run_folder(path);
    else
        run_file(path, (size_t)st.st_size);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        run(argv[i]);
    printf("%zu inputs\n", runs);
    return runs ? EXIT_SUCCESS : EXIT_FAILURE;
}
