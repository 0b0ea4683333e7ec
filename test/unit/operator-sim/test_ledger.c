#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "operator-sim/hash.h"
#include "operator-sim/ledger.h"
#include "test/unit/suite.h"

static char path[64];

static void setup(void)
{
    int fd;

    snprintf(path, sizeof(path), "/tmp/test_ledger_XXXXXX");
    fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    close(fd);
}

static void teardown(void)
{
    unlink(path);
}

static struct ledger *opened(size_t max, const char *file)
{
    struct err err = {0};
    struct ledger *l = ledger_open(max, file, &err);

    ck_assert_msg(l != NULL, "%s", err.msg);
    return l;
}

static void accept(struct ledger *l, const char *reference)
{
    static const struct trace_context trace = {{1}, {2}, 1};
    struct ledger_message m = {"+4917", "text", 4, MESSAGE_EXPRESS, true, &trace};
    struct err err = {0};

    ck_assert_msg(!ledger_accept(l, ledger_request(l, reference), &m, &err), "%s", err.msg);
}

START_TEST(hash_vectors)
{
    unsigned char in[15];
    struct hash_key key = {0x0706050403020100u, 0x0f0e0d0c0b0a0908u};

    for (unsigned i = 0; i < sizeof(in); i++)
        in[i] = (unsigned char)i;
    /* the example of the SipHash paper, appendix A */
    ck_assert_uint_eq(hash_bytes(key, in, sizeof(in)), 0xa129ca6149be45e5u);
    ck_assert_uint_eq(hash_crc32("123456789", 9), 0xcbf43926u);
}
END_TEST

START_TEST(many_references_are_found_again)
{
    struct ledger *l = opened(50000, "");
    char reference[32];

    for (unsigned i = 0; i < 50000; i++) {
        snprintf(reference, sizeof(reference), "r-%u", i);
        if (i % 2)
            accept(l, reference);
        else
            ck_assert_ptr_nonnull(ledger_request(l, reference));
    }
    ck_assert_ptr_null(ledger_request(l, "one-too-many"));
    for (unsigned i = 0; i < 50000; i++) {
        struct ledger_entry *e;

        snprintf(reference, sizeof(reference), "r-%u", i);
        e = ledger_find(l, reference);
        ck_assert_ptr_nonnull(e);
        ck_assert_ptr_eq(e, ledger_at(l, i));
        ck_assert_int_eq(e->accepted_us != 0, i % 2);
    }
    ck_assert_ptr_null(ledger_find(l, "r-50000"));
    ck_assert_ptr_null(ledger_at(l, 50000));
    ledger_request(l, "r-1");
    ledger_request(l, "r-2");
    ck_assert_uint_eq(ledger_counts(l).accepted, 25000);
    ck_assert_uint_eq(ledger_counts(l).duplicates, 1);
    ck_assert_uint_eq(ledger_counts(l).requests, 50002);
    ledger_close(l);
}
END_TEST

START_TEST(a_restart_remembers_what_was_accepted)
{
    struct ledger *l = opened(1000, path);
    const struct ledger_entry *e;
    struct stat before;
    struct stat after;
    FILE *f;

    accept(l, "a-0");
    ledger_request(l, "seen-only");
    accept(l, "b-0");
    ledger_close(l);
    stat(path, &before);
    f = fopen(path, "ae"); /* a crash in the middle of a line */
    ck_assert_ptr_nonnull(f);
    fputs("c-0\t+4", f);
    fclose(f);
    l = opened(1000, path);
    stat(path, &after);
    ck_assert_int_eq(before.st_size, after.st_size);
    ck_assert_uint_eq(ledger_counts(l).accepted, 2);
    ck_assert_ptr_null(ledger_find(l, "c-0"));
    ck_assert_ptr_null(ledger_find(l, "seen-only"));
    e = ledger_find(l, "b-0");
    ck_assert_ptr_nonnull(e);
    ck_assert_str_eq(e->to, "+4917");
    ck_assert_uint_eq(e->text_bytes, 4);
    ck_assert_uint_eq(e->text_crc32, hash_crc32("text", 4));
    ck_assert_int_eq(e->type, MESSAGE_EXPRESS);
    ck_assert(e->has_key && e->has_trace && e->accepted_us > 0);
    ck_assert_uint_eq(e->trace.span_id[0], 2);
    accept(l, "c-0");
    ledger_close(l);
    l = opened(1000, path);
    ck_assert_uint_eq(ledger_counts(l).accepted, 3);
    ledger_close(l);
}
END_TEST

START_TEST(a_strange_file_is_left_alone)
{
    struct err err = {0};
    struct stat st;
    FILE *f = fopen(path, "we");

    ck_assert_ptr_nonnull(f);
    fputs("this is no ledger\n", f);
    fclose(f);
    ck_assert_ptr_null(ledger_open(1000, path, &err));
    ck_assert_int_eq(err.kind, ERR_PERMANENT);
    stat(path, &st);
    ck_assert_int_eq(st.st_size, 18);
    ck_assert_ptr_null(ledger_open(1000, "/nowhere/ledger", &err));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("ledger");
    TCase *t = tcase_create("ledger");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, hash_vectors);
    tcase_add_test(t, many_references_are_found_again);
    tcase_add_test(t, a_restart_remembers_what_was_accepted);
    tcase_add_test(t, a_strange_file_is_left_alone);
    suite_add_tcase(s, t);
    return suite_run(s);
}
